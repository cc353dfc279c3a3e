"""Whole journeys as documents: read, compare and apply them.

from milepost import Client, journeys

with Client("localhost:7443", account="acme") as client:
    document = journeys.loads(Path("winback.yaml").read_text())
    difference = journeys.compare(client, document)     # what would change, with sizes before and after
    journeys.apply(client, difference)                  # a second time changes nothing
    print(journeys.dumps(journeys.read(client, "winback")))
    print(journeys.dumps(journeys.read(client, "winback", version=1)))
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from milepost import names
from milepost.client import Client
from milepost.documents import DocumentError, Positions
from milepost.errors import InvalidArgument, MilepostError
from milepost.journeys.difference import (
    JourneyDifference,
    Mark,
    MilestoneDifference,
    between,
    with_connections,
    with_sizes,
)
from milepost.journeys.document import (
    JourneyDocument,
    MilestoneDocument,
    document_of,
    document_of_message,
    dumps,
    loads,
    message_of,
)
from milepost.v1.audience_service_pb2 import PreviewJourneyResponse
from milepost.v1.connection_pb2 import CONNECTION_STATE_ACTIVE
from milepost.v1.journey_service_pb2 import ApplyJourneyResponse
from milepost.values import to_datetime

__all__ = [
    "DocumentError",
    "JourneyDifference",
    "JourneyDocument",
    "Mark",
    "MilestoneDifference",
    "MilestoneDocument",
    "Positions",
    "apply",
    "between",
    "compare",
    "compare_versions",
    "dumps",
    "loads",
    "message_of",
    "preview",
    "read",
]

_REQUEST_FIELD = "document."


def read(client: Client, journey: str, *, version: int | None = None) -> JourneyDocument:
    """The document of a saved journey, given by id or name, as it is or as a version was. Raises NotFound."""
    if version is not None:
        return document_of_message(client.get_journey_version(journey, version).document)
    found = client.get_journey(journey)
    return document_of(found, client.list_milestones(found.name))


def compare(client: Client, document: JourneyDocument, *, as_of: datetime | None = None) -> JourneyDifference:
    """What applying the document would change, with exact sizes before and after, both at one instant: now,
    or `as_of`.

    The service checks the whole document. Raises InvalidArgument with every fault and its path in the
    document, and FailedPrecondition when another journey stands in the way.
    """
    checked = _applied(client, document, validate_only=True)
    found = preview(client, document, as_of=as_of)
    before: JourneyDocument | None = None
    sizes_before: dict[str, int] = {}
    if checked.HasField("journey"):
        before = read(client, document.id)
        funnel = client.get_journey_funnel(checked.journey.name, as_of=to_datetime(found.evaluation.as_of))
        sizes_before = {names.last_id(step.milestone): step.users for step in funnel.steps}
        sizes_before[""] = funnel.population
    difference = between(before, document)
    if difference.counts()[Mark.DELETED]:
        difference = with_connections(difference, _active_connections(client, document.id))
    return replace(
        with_sizes(difference, sizes_before, _sizes(found)),
        warnings=tuple((_in_document(each.field), each.description) for each in checked.warnings),
        etag=checked.version.etag,
    )


def compare_versions(
    client: Client,
    journey: str,
    version: int,
    to_version: int | None = None,
    *,
    as_of: datetime | None = None,
) -> JourneyDifference:
    """What changed from one version of a journey to another (None = the current one), with exact sizes of
    both at one instant: now, or `as_of`. A version whose inputs or audiences no longer exist has no sizes.
    Raises NotFound.
    """
    before, after = read(client, journey, version=version), read(client, journey, version=to_version)
    instant = as_of
    sizes: list[dict[str, int]] = []
    for document in (before, after):
        try:
            found = preview(client, document, as_of=instant)
        except InvalidArgument:
            sizes.append({})
        else:
            sizes.append(_sizes(found))
            instant = to_datetime(found.evaluation.as_of)
    return with_sizes(between(before, after), *sizes)


def preview(
    client: Client, document: JourneyDocument, *, as_of: datetime | None = None
) -> PreviewJourneyResponse:
    """The exact size of each milestone, without saving anything. Raises InvalidArgument with every fault and
    its path in the document.
    """
    return client.preview_journey(message_of(document), as_of=as_of)


def apply(client: Client, difference: JourneyDifference) -> ApplyJourneyResponse:
    """Applies a difference that was just computed, all of it or nothing.

    Raises Aborted when the journey changed since it was compared, and what `compare` raises.
    """
    return _applied(client, difference.after, etag=difference.etag)


def _active_connections(client: Client, journey: str) -> dict[str, list[str]]:
    """The ids of active connections by the id of their milestone."""
    milestones = {each.audience: names.last_id(each.name) for each in client.list_milestones(journey)}
    found: dict[str, list[str]] = {}
    for each in client.list_connections():
        if each.state == CONNECTION_STATE_ACTIVE and each.audience in milestones:
            found.setdefault(milestones[each.audience], []).append(names.last_id(each.name))
    return found


def _applied(
    client: Client, document: JourneyDocument, *, etag: str = "", validate_only: bool = False
) -> ApplyJourneyResponse:
    try:
        return client.apply_journey(message_of(document), etag=etag, validate_only=validate_only)
    except MilepostError as error:
        error.rename_fields(_in_document)
        raise


def _in_document(path: str) -> str:
    return path.removeprefix(_REQUEST_FIELD)


def _sizes(found: PreviewJourneyResponse) -> dict[str, int]:
    return {step.milestone: step.users for step in found.steps} | {"": found.population}
