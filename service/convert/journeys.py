"""Journeys, milestones and audiences, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

from engine.audiences.model import EditedAudience
from engine.errors import InvalidInput, Violations
from engine.limits import DEFAULT_LIMITS, Limits
from engine.resources.applying import Action, AppliedChange
from engine.resources.documents import DOCUMENT_FIELD, JourneyDocument, MilestoneDocument
from engine.resources.journeys import JourneySummary
from engine.resources.records import Audience, Journey, Milestone, MilestoneKind, etag_of, journey_of
from engine.resources.versions import JourneyVersion
from milepost.v1 import audience_pb2, journey_pb2, journey_service_pb2
from service.convert.criteria import INVALID_CRITERIA, criteria_message, criterion_of
from service.convert.enums import members_of, numbers_of
from service.convert.times import timestamp

_ACTIONS = numbers_of(journey_service_pb2.ApplyAction, Action)
UNKNOWN_MILESTONE_KIND = "is not a milestone kind"

_MILESTONE_KINDS = {
    journey_pb2.MILESTONE_KIND_UNSPECIFIED: MilestoneKind.CRITERIA,
    **members_of(journey_pb2.MilestoneKind, MilestoneKind),
}
MILESTONE_KIND_MESSAGES = numbers_of(journey_pb2.MilestoneKind, MilestoneKind)


def milestone_kind(number: int, path: str) -> MilestoneKind:
    """The kind of a milestone. Raises InvalidInput."""
    kind = _MILESTONE_KINDS.get(number)
    if kind is None:
        raise InvalidInput.one(path, UNKNOWN_MILESTONE_KIND)
    return kind


def journey_of_message(message: journey_pb2.Journey) -> Journey:
    """The record of a journey."""
    return Journey(name=message.name, display_name=message.display_name, inputs=tuple(message.inputs))


def journey_message(journey: Journey, summary: JourneySummary) -> journey_pb2.Journey:
    """The message of a journey, with the fields derived from its milestones and connections."""
    return journey_pb2.Journey(
        name=journey.name,
        display_name=journey.display_name,
        inputs=journey.inputs,
        audience_count=summary.audience_count,
        active_audience_count=summary.active_audience_count,
        connected_outputs=summary.connected_outputs,
        create_time=timestamp(journey.create_time),
        update_time=timestamp(summary.update_time),
        etag=etag_of(journey),
        version=journey.version,
    )


def milestone_of_message(message: journey_pb2.Milestone, limits: Limits = DEFAULT_LIMITS) -> Milestone:
    """The record of a milestone. Raises InvalidInput for malformed criteria."""
    criteria = None
    if message.HasField("criteria"):
        criteria = criterion_of(message.criteria, "milestone.criteria", limits)
    return Milestone(
        name=message.name,
        display_name=message.display_name,
        parent=message.parent_milestone,
        kind=milestone_kind(message.kind, "milestone.kind"),
        criteria=criteria,
        audience="",
    )


def milestone_message(milestone: Milestone) -> journey_pb2.Milestone:
    """The message for a milestone."""
    return journey_pb2.Milestone(
        name=milestone.name,
        display_name=milestone.display_name,
        parent_milestone=milestone.parent,
        position=milestone.position,
        kind=MILESTONE_KIND_MESSAGES[milestone.kind],
        criteria=None if milestone.criteria is None else criteria_message(milestone.criteria),
        audience=milestone.audience,
        create_time=timestamp(milestone.create_time),
        update_time=timestamp(milestone.update_time),
        etag=etag_of(milestone),
    )


def audience_of_message(message: audience_pb2.Audience) -> Audience:
    """The record of an audience with the fields that a caller can set."""
    return Audience(name=message.name, external_name=message.external_name, milestone=message.milestone)


def audience_message(
    audience: Audience,
    display_name: str,
    activated: bool,
    size: audience_pb2.AudienceSize | None = None,
) -> audience_pb2.Audience:
    """The message for an audience; its display name is its milestone's."""
    return audience_pb2.Audience(
        name=audience.name,
        display_name=display_name,
        external_name=audience.external_name,
        journey=journey_of(audience.milestone),
        milestone=audience.milestone,
        activated=activated,
        size=size,
        create_time=timestamp(audience.create_time),
        update_time=timestamp(audience.update_time),
        etag=etag_of(audience),
    )


# --- documents and versions ---------------------------------------------------------------------------------


def document_of_message(
    message: journey_pb2.JourneyDocument, limits: Limits = DEFAULT_LIMITS
) -> JourneyDocument:
    """The document of a journey. Raises InvalidInput with every fault of malformed criteria."""
    path = f"{DOCUMENT_FIELD}.milestones"
    faults = Violations()
    milestones = _split_of_messages(message.milestones, path, limits, faults)
    if faults:
        raise InvalidInput(faults, reason=INVALID_CRITERIA)
    return JourneyDocument(
        journey=message.journey,
        display_name=message.display_name,
        inputs=tuple(message.inputs),
        milestones=milestones,
    )


def _split_of_messages(
    messages: Sequence[journey_pb2.MilestoneDocument], path: str, limits: Limits, faults: Violations
) -> tuple[MilestoneDocument, ...]:
    split = []
    for index, message in enumerate(messages):
        own = f"{path}[{index}]"
        criteria = None
        if message.HasField("criteria"):
            try:
                criteria = criterion_of(message.criteria, f"{own}.criteria", limits)
            except InvalidInput as error:
                faults.extend(error.violations)
                faults.left_out += error.left_out
        split.append(
            MilestoneDocument(
                id=message.id,
                display_name=message.display_name,
                criteria=criteria,
                remaining_users=message.remaining_users,
                children=_split_of_messages(message.children, f"{own}.children", limits, faults),
            )
        )
    return tuple(split)


def document_message(document: JourneyDocument) -> journey_pb2.JourneyDocument:
    """The message of a document, with inputs as `workspace/input`."""
    return journey_pb2.JourneyDocument(
        journey=document.journey,
        display_name=document.display_name,
        inputs=map(_short_input, document.inputs),
        milestones=map(_milestone_document_message, document.milestones),
    )


def _milestone_document_message(milestone: MilestoneDocument) -> journey_pb2.MilestoneDocument:
    return journey_pb2.MilestoneDocument(
        id=milestone.id,
        display_name=milestone.display_name,
        criteria=None if milestone.criteria is None else criteria_message(milestone.criteria),
        remaining_users=milestone.remaining_users,
        children=map(_milestone_document_message, milestone.children),
    )


def _short_input(name: str) -> str:
    _, _, _, workspace, _, input_id = name.split("/")
    return f"{workspace}/{input_id}"


def edited_audience_message(edited: EditedAudience) -> journey_service_pb2.EditedAudience:
    """The message for an audience that an edit concerns."""
    fields = {field: getattr(edited, field) for field in edited.__struct_fields__}
    return journey_service_pb2.EditedAudience(**fields)


def change_message(change: AppliedChange) -> journey_service_pb2.AppliedChange:
    """The message of a change."""
    return journey_service_pb2.AppliedChange(
        name=change.name,
        action=_ACTIONS[change.action],
        field=change.field,
        changed_fields=change.changed_fields,
    )


def version_message(version: JourneyVersion) -> journey_pb2.JourneyVersion:
    """The message of a version, with the document that it has."""
    return journey_pb2.JourneyVersion(
        name=version.name,
        document=None if version.document is None else document_message(version.document),
        create_time=timestamp(version.create_time),
        milestone_count=version.milestone_count,
        current=version.is_current,
        etag=version.etag,
    )
