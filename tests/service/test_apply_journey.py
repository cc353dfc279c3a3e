"""ApplyJourney and the versions of journeys through real gRPC."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import json_format

from milepost.v1.connection_pb2 import Connection, FileOutput, Output
from milepost.v1.connection_service_pb2 import (
    ActivateConnectionRequest,
    CreateConnectionRequest,
    CreateOutputRequest,
)
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.ingest_service_pb2 import IngestEventsRequest
from milepost.v1.journey_pb2 import JourneyDocument
from milepost.v1.journey_service_pb2 import (
    APPLY_ACTION_CREATED,
    APPLY_ACTION_DELETED,
    APPLY_ACTION_MOVED,
    APPLY_ACTION_UPDATED,
    ApplyJourneyRequest,
    ApplyJourneyResponse,
    GetJourneyRequest,
    GetJourneyVersionRequest,
    GetMilestoneRequest,
    ListJourneyVersionsRequest,
    ListMilestonesRequest,
)
from tests.harness import ACCOUNT, INPUT, Serving, eventually, refusal_of, serving

JOURNEY = f"{ACCOUNT}/journeys/winback"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service with the users u0 to u3: each bought, the odd ones also called."""
    with serving(tmp_path_factory.mktemp("store")) as made:
        made.create_inputs()
        request = IngestEventsRequest(parent=ACCOUNT)
        for user in range(4):
            for name in ("buy", "call")[: 1 + user % 2]:
                event = request.events.add(user_id=f"u{user}", input=INPUT, name=name)
                event.time.GetCurrentTime()
        assert made.ingest.IngestEvents(request).accepted == 6
        yield made


def document(json: str) -> JourneyDocument:
    """The proto3 JSON mapping is what the YAML of a document holds."""
    return json_format.Parse(json, JourneyDocument())


def apply(service: Serving, wanted: JourneyDocument, **options: object) -> ApplyJourneyResponse:
    request = ApplyJourneyRequest(parent=ACCOUNT, document=wanted, **options)  # type: ignore[arg-type]
    return service.journeys.ApplyJourney(request)


def refused(
    service: Serving, wanted: JourneyDocument, etag: str = ""
) -> tuple[grpc.StatusCode, dict[str, str]]:
    refusal = refusal_of(
        service.journeys.ApplyJourney, ApplyJourneyRequest(parent=ACCOUNT, document=wanted, etag=etag)
    )
    return refusal.code, refusal.violations


def actions(response: ApplyJourneyResponse) -> list[tuple[str, int, str, list[str]]]:
    return [
        (change.name.removeprefix(JOURNEY), change.action, change.field, list(change.changed_fields))
        for change in response.changes
    ]


FIRST = """{
  "journey": "winback", "displayName": "Win back", "inputs": ["w/i"],
  "milestones": [
    {"id": "callers", "criteria": {"event": {"name": "call"}}},
    {"id": "buyers", "criteria": {"event": {"name": "buy"}}, "children": [
      {"id": "never", "criteria": {"event": {"name": "bye"}}}, {"id": "rest", "remainingUsers": true}]}
  ]
}"""


def test_a_journey_is_made_changed_and_read_as_it_was(service: Serving) -> None:
    # 1. What would be is answered, with a warning, and nothing is there.
    checked = apply(service, document(FIRST), validate_only=True)
    assert not checked.HasField("journey")
    assert not checked.HasField("version")
    assert [warning.field for warning in checked.warnings] == [
        "document.milestones[1].children[0].criteria.event.name"
    ]
    nothing = refusal_of(service.journeys.GetJourney, GetJourneyRequest(name=JOURNEY))
    assert nothing.code is grpc.StatusCode.NOT_FOUND
    # 2. It is made in one call.
    made = apply(service, document(FIRST))
    assert (
        actions(made)
        == actions(checked)
        == [
            ("", APPLY_ACTION_CREATED, "document", []),
            ("/milestones/callers", APPLY_ACTION_CREATED, "document.milestones[0]", []),
            ("/milestones/buyers", APPLY_ACTION_CREATED, "document.milestones[1]", []),
            ("/milestones/never", APPLY_ACTION_CREATED, "document.milestones[1].children[0]", []),
            ("/milestones/rest", APPLY_ACTION_CREATED, "document.milestones[1].children[1]", []),
        ]
    )
    assert (made.journey.audience_count, list(made.journey.inputs), made.journey.version) == (4, [INPUT], 1)
    assert (made.version.name, made.version.milestone_count) == (f"{JOURNEY}/versions/1", 4)
    # 3. Every kind of change in one document.
    second = document(FIRST)
    del second.milestones[1].children[:]
    moved = second.milestones.pop(0)
    second.milestones.append(moved)
    second.milestones[0].display_name = "Buyers"
    changed = apply(service, second, etag=made.version.etag)
    assert actions(changed) == [
        ("/milestones/rest", APPLY_ACTION_DELETED, "", []),
        ("/milestones/never", APPLY_ACTION_DELETED, "", []),
        ("/milestones/buyers", APPLY_ACTION_UPDATED, "document.milestones[0]", ["display_name", "position"]),
        ("/milestones/callers", APPLY_ACTION_MOVED, "document.milestones[1]", ["position"]),
    ]
    assert actions(apply(service, second)) == []
    # 4. The etag of the version before no longer fits.
    assert refused(service, document(FIRST), made.version.etag)[0] is grpc.StatusCode.ABORTED
    # 5. Both versions are listed, page by page, and read.
    pages = []
    token = ""
    for _ in range(2):
        page = service.journeys.ListJourneyVersions(
            ListJourneyVersionsRequest(parent=JOURNEY, page_size=1, page_token=token)
        )
        pages.append([(v.name, v.milestone_count, v.current, v.HasField("document")) for v in page.versions])
        token = page.next_page_token
    assert token == ""
    assert pages == [
        [(f"{JOURNEY}/versions/2", 2, True, False)],
        [(f"{JOURNEY}/versions/1", 4, False, False)],
    ]
    first = service.journeys.GetJourneyVersion(GetJourneyVersionRequest(name=f"{JOURNEY}/versions/1")).version
    wanted = document(FIRST)
    for milestone in (*wanted.milestones, *wanted.milestones[1].children):
        milestone.display_name = "Remaining users" if milestone.remaining_users else milestone.id
    assert (first.document, first.current) == (wanted, False)
    # 6. A version applied again is the journey as it was, under the next number.
    back = apply(service, first.document)
    assert back.version.name == f"{JOURNEY}/versions/3"
    now = service.journeys.GetJourneyVersion(GetJourneyVersionRequest(name=back.version.name)).version
    assert (now.document, now.current) == (wanted, True)


def test_a_fault_anywhere_leaves_nothing_behind(service: Serving) -> None:
    wanted = document(
        """{"journey": "half", "milestones": [
            {"id": "one", "criteria": {"event": {"name": "buy"}}},
            {"id": "two", "criteria": {"event": {"name": "call"}}}]}"""
    )
    wanted.milestones[1].display_name = "x" * 101
    code, violations = refused(service, wanted)
    assert (code, violations) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        {"document.milestones[1].display_name": "has 101 characters; at most 100 are allowed"},
    )
    half = refusal_of(service.journeys.GetJourney, GetJourneyRequest(name=f"{ACCOUNT}/journeys/half"))
    assert half.code is grpc.StatusCode.NOT_FOUND
    # Malformed criteria are named with the path of each, in whatever milestone.
    wanted.milestones[0].criteria.Clear()
    wanted.milestones[1].criteria.all_of.criteria.add()
    assert refused(service, wanted)[1] == {
        "document.milestones[0].criteria": "must have exactly one node",
        "document.milestones[1].criteria.all_of.criteria[0]": "must have exactly one node",
    }
    assert refused(service, JourneyDocument())[1] == {
        "document.journey": "must be 1-63 of a-z, 0-9 and -, starting with a letter"
    }
    missing = refusal_of(
        service.journeys.ApplyJourney, ApplyJourneyRequest(parent="accounts/none", document=wanted)
    )
    assert missing.code is grpc.StatusCode.INVALID_ARGUMENT
    wrong = refusal_of(
        service.journeys.GetJourneyVersion, GetJourneyVersionRequest(name=f"{JOURNEY}/versions/01")
    )
    assert (wrong.code, list(wrong.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, ["name"])


def test_criteria_of_the_greatest_depth_fit_into_the_deepest_milestone(service: Serving) -> None:
    """Parsers take 100 nested messages; this is the deepest that the limits allow, there and back."""
    criteria = Criteria()
    node = criteria
    for _ in range(30):
        node = node.all_of.criteria.add()
    node.event.name = "buy"
    node.event.condition.attribute.key = "tags"
    node.event.condition.attribute.test.equals.string_value = "x"
    wanted = JourneyDocument(journey="deep", display_name="Deep")
    split = wanted.milestones
    for level in range(20):
        split = split.add(id=f"m{level}", display_name="M", criteria=criteria).children
    made = apply(service, wanted)
    assert made.journey.audience_count == 20
    read = service.journeys.GetJourneyVersion(GetJourneyVersionRequest(name=made.version.name)).version
    assert read.document == wanted


def test_members_leave_the_replaced_milestone_and_enter_the_new_one(service: Serving) -> None:
    """Below another parent `callers` is another milestone: its audience ends, in the same commit."""
    flat = document(
        """{"journey": "live", "milestones": [
            {"id": "callers", "criteria": {"event": {"name": "call"}}},
            {"id": "buyers", "criteria": {"event": {"name": "buy"}}}]}"""
    )
    apply(service, flat)
    service.connections.CreateOutput(
        CreateOutputRequest(parent=ACCOUNT, output_id="files", output=Output(file=FileOutput(path="out")))
    )
    for milestone in ("callers", "buyers"):
        audience = service.journeys.GetMilestone(
            GetMilestoneRequest(name=f"{ACCOUNT}/journeys/live/milestones/{milestone}")
        ).milestone.audience
        connection = Connection(audience=audience, output=f"{ACCOUNT}/outputs/files")
        service.connections.CreateConnection(
            CreateConnectionRequest(parent=ACCOUNT, connection_id=milestone, connection=connection)
        )
        service.connections.ActivateConnection(
            ActivateConnectionRequest(name=f"{ACCOUNT}/connections/{milestone}")
        )

    def sent(connection: str) -> list[tuple[str, str]]:
        events = service.delivered("out", connection)
        return [(each["type"].rpartition(".")[2], each["data"]["user_id"]) for each in events]

    eventually(lambda: len(sent("callers")) == 2 and len(sent("buyers")) == 2)
    nested = document(
        """{"journey": "live", "milestones": [
            {"id": "buyers", "criteria": {"event": {"name": "buy"}}, "children": [
                {"id": "callers", "criteria": {"event": {"name": "call"}}}]}]}"""
    )
    apply(service, nested)
    eventually(lambda: len(sent("callers")) == 4 and len(sent("buyers")) == 4)
    assert sorted(sent("callers")) == [
        ("entered", "u1"),
        ("entered", "u3"),
        ("exited", "u1"),
        ("exited", "u3"),
    ]
    assert sorted(sent("buyers")) == [("entered", f"u{user}") for user in range(4)]
    listed = service.journeys.ListMilestones(
        ListMilestonesRequest(parent=f"{ACCOUNT}/journeys/live")
    ).milestones
    assert [each.parent_milestone.rpartition("/")[2] for each in listed] == ["", "buyers"]
