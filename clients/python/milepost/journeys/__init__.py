"""Whole journeys as documents: read, compare and apply them.

from milepost import Client, journeys

with Client("localhost:7443", account="acme") as client:
    document = journeys.loads(Path("winback.yaml").read_text())
    difference = journeys.compare(client, document)     # what would change, with sizes before and after
    journeys.apply(client, difference)                  # a second time there is nothing left to change
    print(journeys.dumps(journeys.read(client, "winback")))
"""

from __future__ import annotations

import re
from dataclasses import replace

from milepost import names
from milepost.client import Client
from milepost.errors import MilepostError, NotFound, Violation
from milepost.journeys.applying import Applying
from milepost.journeys.criteria import audiences_in
from milepost.journeys.difference import (
    JourneyDifference,
    Mark,
    MilestoneDifference,
    between,
    with_sizes,
)
from milepost.journeys.document import (
    DocumentError,
    JourneyDocument,
    MilestoneDocument,
    criteria_text,
    document_of,
    dumps,
    loads,
)
from milepost.v1.audience_service_pb2 import (
    GetJourneyFunnelRequest,
    PreviewJourneyRequest,
    PreviewJourneyResponse,
    PreviewMilestone,
)
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA, MILESTONE_KIND_REMAINING_USERS

__all__ = [
    "DocumentError",
    "JourneyDifference",
    "JourneyDocument",
    "Mark",
    "MilestoneDifference",
    "MilestoneDocument",
    "apply",
    "between",
    "compare",
    "criteria_text",
    "dumps",
    "loads",
    "read",
]

_PREVIEW_PATH = re.compile(r"^milestones\[(\d+)\]")


def read(client: Client, journey: str) -> JourneyDocument:
    """The document of a saved journey, given by id or name. Raises NotFound."""
    found = client.get_journey(journey)
    return document_of(found, client.list_milestones(found.name))


def compare(client: Client, document: JourneyDocument) -> JourneyDifference:
    """What applying the document would change, with exact sizes before and after, both at one instant.

    The service checks the whole document, milestones given by id in its paths: raises InvalidArgument with
    every fault, and DocumentError when criteria name the audience of a milestone that would go.
    """
    before = _before(client, document)
    request = _preview_request(client, document)
    sizes_before: dict[str, int] = {}
    if before is not None:
        funnel = client.audiences.GetJourneyFunnel(
            GetJourneyFunnelRequest(name=client.journey_name(document.id))
        )
        request.as_of.CopyFrom(funnel.evaluation.as_of)
        sizes_before = {names.last_id(step.milestone): step.users for step in funnel.steps}
        sizes_before[""] = funnel.population
    preview = _preview(client, request)
    sizes_after = {step.milestone: step.users for step in preview.steps} | {"": preview.population}
    sized = with_sizes(between(before, document), sizes_before, sizes_after)
    warnings = ((_with_id(warning.field, request), warning.description) for warning in preview.warnings)
    return replace(sized, warnings=tuple(warnings))


def apply(client: Client, difference: JourneyDifference) -> None:
    """Carries out a difference that was just compared. Raises MilepostError; applying again goes on."""
    Applying(client, difference).run()


def _before(client: Client, document: JourneyDocument) -> JourneyDocument | None:
    """The saved journey, if there is one. Raises DocumentError; see `compare`."""
    try:
        journey = client.get_journey(document.id)
    except NotFound:
        return None
    milestones = list(client.list_milestones(journey.name))
    before = document_of(journey, milestones)
    going = {each.id for each in between(before, document).walk() if each.mark is Mark.DELETED}
    audiences = {each.audience: names.last_id(each.name) for each in milestones}
    faults = [
        (f"{milestone.id}.criteria", f"names the audience of {audiences[named]!r}, which would be deleted")
        for milestone in document.walk()
        for named in ([] if milestone.criteria is None else sorted(audiences_in(milestone.criteria)))
        if audiences.get(named) in going
    ]
    if faults:
        raise DocumentError(faults)
    return before


def _preview_request(client: Client, document: JourneyDocument) -> PreviewJourneyRequest:
    request = PreviewJourneyRequest(
        parent=client.account_name,
        inputs=[names.input_(client.account_id, *name.split("/")) for name in document.inputs],
    )
    parents = {child.id: milestone.id for milestone in document.walk() for child in milestone.children}
    for milestone in document.walk():
        kind = MILESTONE_KIND_REMAINING_USERS if milestone.takes_remaining_users else MILESTONE_KIND_CRITERIA
        request.milestones.append(
            PreviewMilestone(
                id=milestone.id,
                parent=parents.get(milestone.id, ""),
                display_name=milestone.display_name,
                kind=kind,
                criteria=milestone.criteria,
            )
        )
    return request


def _preview(client: Client, request: PreviewJourneyRequest) -> PreviewJourneyResponse:
    try:
        return client.audiences.PreviewJourney(request)
    except MilepostError as error:
        error.violations = tuple(
            Violation(_with_id(violation.field, request), violation.description)
            for violation in error.violations
        )
        raise


def _with_id(path: str, request: PreviewJourneyRequest) -> str:
    """The path with a milestone's id in place of its number in the preview."""
    return _PREVIEW_PATH.sub(lambda found: request.milestones[int(found[1])].id, path)
