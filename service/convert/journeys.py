"""Journeys, milestones and audiences, both ways."""

from __future__ import annotations

from engine.errors import InvalidInput
from engine.resources.journeys import JourneySummary
from engine.resources.records import Audience, Journey, Milestone, MilestoneKind, etag_of, journey_of
from milepost.v1 import audience_pb2, journey_pb2
from service.convert.criteria import criteria_message, criterion_of
from service.convert.times import timestamp

UNKNOWN_MILESTONE_KIND = "is not a milestone kind"

_MILESTONE_KINDS: dict[int, MilestoneKind] = {
    journey_pb2.MILESTONE_KIND_UNSPECIFIED: MilestoneKind.CRITERIA,
    journey_pb2.MILESTONE_KIND_CRITERIA: MilestoneKind.CRITERIA,
    journey_pb2.MILESTONE_KIND_REMAINING_USERS: MilestoneKind.REMAINING_USERS,
}
MILESTONE_KIND_MESSAGES = {
    MilestoneKind.CRITERIA: journey_pb2.MILESTONE_KIND_CRITERIA,
    MilestoneKind.REMAINING_USERS: journey_pb2.MILESTONE_KIND_REMAINING_USERS,
}


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
    )


def milestone_of_message(message: journey_pb2.Milestone) -> Milestone:
    """The record of a milestone. Raises InvalidInput for malformed criteria."""
    criteria = None
    if message.HasField("criteria"):
        criteria = criterion_of(message.criteria, "milestone.criteria")
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
