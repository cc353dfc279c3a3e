"""Invalid input through a real server: code, reason, field, and no partial writes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from google.protobuf.field_mask_pb2 import FieldMask

from milepost.v1 import (
    account_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_pb2,
    connection_service_pb2,
    criteria_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_pb2,
    journey_service_pb2,
)
from milepost.v1 import account_service_pb2 as account
from tests.harness import ACCOUNT, INPUT, Refusal, Serving, refusal_of, serving

JOURNEY = f"{ACCOUNT}/journeys/j"
OTHER_JOURNEY = f"{ACCOUNT}/journeys/other"
START = f"{JOURNEY}/milestones/start"
AUDIENCE = f"{ACCOUNT}/audiences/none"

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MIB = 1024 * 1024


def event(**fields: Any) -> data_pb2.Event:
    """A sound event, with these fields instead."""
    made = data_pb2.Event(user_id="u1", name="buy", **{k: v for k, v in fields.items() if k != "user_id"})
    made.user_id = fields.get("user_id", "u1")
    if "time" not in fields:
        made.time.FromSeconds(int(time.time()))
    return made


def criteria(text: str) -> criteria_pb2.Criteria:
    return text_format.Parse(text, criteria_pb2.Criteria())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two journeys; the first with one milestone, `start`."""
    with serving(tmp_path_factory.mktemp("bad") / "store", access_log="none") as running:
        running.create_inputs()
        for journey in ("j", "other"):
            running.journeys.CreateJourney(
                journey_service_pb2.CreateJourneyRequest(parent=ACCOUNT, journey_id=journey)
            )
        for parent, milestone in ((JOURNEY, "start"), (OTHER_JOURNEY, "elsewhere")):
            running.journeys.CreateMilestone(
                journey_service_pb2.CreateMilestoneRequest(
                    parent=parent,
                    milestone_id=milestone,
                    milestone=journey_pb2.Milestone(criteria=criteria("all_of {}")),
                )
            )
        yield running


def state(service: Serving) -> bytes:
    """All state that a refused write could have changed, as bytes."""
    journeys = service.journeys.ListJourneys(journey_service_pb2.ListJourneysRequest(parent=ACCOUNT))
    milestones = [
        service.journeys.ListMilestones(journey_service_pb2.ListMilestonesRequest(parent=journey.name))
        for journey in journeys.journeys
    ]
    info = service.admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest())
    inputs = service.accounts.ListInputs(account.ListInputsRequest(parent=f"{ACCOUNT}/workspaces/-"))
    connections = service.connections.ListConnections(
        connection_service_pb2.ListConnectionsRequest(parent=ACCOUNT)
    )
    outputs = service.connections.ListOutputs(connection_service_pb2.ListOutputsRequest(parent=ACCOUNT))
    messages = (journeys, *milestones, inputs, connections, outputs)
    figures = (info.users, info.events, info.revision)
    return repr(figures).encode() + b"".join(m.SerializeToString(deterministic=True) for m in messages)


def refused(service: Serving, call: Any, request: Any) -> Refusal:
    """The refusal of a request, which has changed nothing."""
    before = state(service)
    refusal = refusal_of(call, request)
    assert state(service) == before
    return refusal


# --- ingest -------------------------------------------------------------------------------------------------


def ingest(*events: data_pb2.Event, **fields: Any) -> ingest_service_pb2.IngestEventsRequest:
    return ingest_service_pb2.IngestEventsRequest(
        parent=fields.get("parent", ACCOUNT), input=fields.get("input", INPUT), events=events
    )


def test_batch_without_user_ids_is_refused(service: Serving) -> None:
    batch = ingest(event(user_id=""), event(user_id=""))
    refusal = refused(service, service.ingest.IngestEvents, batch)
    assert (refusal.code, refusal.reason) == (INVALID, "BATCH_REFUSED")
    assert refusal.violations == {"events[0].user_id": "is required", "events[1].user_id": "is required"}


def test_invalid_rows_are_reported_and_the_others_accepted(service: Serving) -> None:
    nan = event()
    nan.attributes["x"].number_value = float("nan")
    ancient = event()
    ancient.attributes["x"].time_value.seconds = -(10**12)
    future = event()
    future.time.FromSeconds(int(time.time()) + 2 * 86_400)
    timeless = event(time=None)
    malformed = event()
    malformed.time.nanos = -1
    faulty = [event(user_id=""), event(), nan, ancient, future, timeless, malformed, event(event_type=77)]
    nowhere = event(input=f"{INPUT}x")
    many = event()
    for number in range(101):
        many.attributes[f"a{number}"].bool_value = True
    answer = service.ingest.IngestEvents(
        ingest(*faulty, nowhere, many, event(user_id="u" * 257), event(user_id="é" * 128))
    )
    assert answer.accepted == 2
    assert [(r.index, r.reason, r.field) for r in answer.rejections] == [
        (0, "REQUIRED", "events[0].user_id"),
        (2, "INVALID_VALUE", "events[2].attributes['x']"),
        (3, "INVALID_VALUE", "events[3].attributes['x']"),
        (4, "EVENT_IN_FUTURE", "events[4].time"),
        (5, "REQUIRED", "events[5].time"),
        (6, "INVALID_VALUE", "events[6].time"),
        (7, "INVALID_VALUE", "events[7].type"),
        (8, "UNKNOWN_INPUT", "events[8].input"),
        (9, "TOO_MANY_ATTRIBUTES", "events[9].attributes"),
        (10, "NAME_TOO_LONG", "events[10].user_id"),
    ]


def test_an_unknown_input(service: Serving) -> None:
    refusal = refused(service, service.ingest.IngestEvents, ingest(event(), input=f"{INPUT}x"))
    assert (refusal.code, refusal.reason) == (INVALID, "BATCH_REFUSED")
    assert refusal.violations == {"events[0].input": f"input '{INPUT}x' does not exist"}


def test_an_unknown_account(service: Serving) -> None:
    refusal = refused(service, service.ingest.IngestEvents, ingest(event(), parent="accounts/b"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert refusal.metadata == {"resource": "accounts/b"}


def test_a_batch_of_five_mebibytes(service: Serving) -> None:
    big = event()
    for number in range(64):
        big.attributes[f"a{number}"].string_value = "x" * 4_000
    batch = ingest(*[big] * (5 * MIB // big.ByteSize() + 1))
    assert batch.ByteSize() > 5 * MIB
    refusal = refused(service, service.ingest.IngestEvents, batch)
    assert (refusal.code, refusal.reason) == (INVALID, "BATCH_TOO_LARGE")
    assert refusal.metadata == {"limit": str(4 * MIB), "actual": str(batch.ByteSize())}
    assert list(refusal.violations) == ["events"]


def test_a_batch_of_five_mebibytes_in_a_stream(service: Serving) -> None:
    big = event()
    big.attributes["a"].string_value = "x" * (5 * MIB)
    batches = [
        ingest_service_pb2.StreamEventsRequest(sequence=number, batch=ingest(one))
        for number, one in enumerate((event(), big, event()))
    ]
    answers: list[ingest_service_pb2.StreamEventsResponse] = []
    with pytest.raises(grpc.RpcError) as failure:
        answers.extend(service.ingest.StreamEvents(iter(batches)))
    assert failure.value.code() is INVALID
    assert [(answer.sequence, answer.result.accepted) for answer in answers] == [(0, 1)]


def test_a_stream_acknowledges_each_batch(service: Serving) -> None:
    batches = (
        ingest_service_pb2.StreamEventsRequest(sequence=number, batch=ingest(*[event()] * number))
        for number in (1, 2, 3)
    )
    answers = list(service.ingest.StreamEvents(batches))
    assert [(a.sequence, a.result.accepted) for a in answers] == [(1, 1), (2, 2), (3, 3)]


def test_a_batch_of_too_many_events(service: Serving) -> None:
    refusal = refused(service, service.ingest.IngestEvents, ingest(*[event()] * 10_001))
    assert (refusal.code, refusal.reason) == (INVALID, "BATCH_TOO_LARGE")
    assert refusal.metadata == {"limit": "10000", "actual": "10001"}


def test_unparsable_request_is_refused(service: Serving) -> None:
    raw: Any = service.channel.unary_unary("/milepost.v1.IngestService/IngestEvents")
    refusal = refused(service, raw, b"\xff\xff\xff")
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_ARGUMENT")
    assert list(refusal.violations) == ["request"]


def test_invalid_user_updates_are_reported(service: Serving) -> None:
    both = data_pb2.UserUpdate(user_id="u1", unset_attributes=["x"])
    both.attributes["x"].bool_value = True
    stateless = data_pb2.UserUpdate(user_id="u1", consents=[data_pb2.ConsentUpdate(regulation="gdpr")])
    nobody = data_pb2.UserUpdate()
    request = ingest_service_pb2.UpsertUsersRequest(
        parent=ACCOUNT, input=INPUT, users=[both, stateless, nobody]
    )
    refusal = refused(service, service.ingest.UpsertUsers, request)
    assert (refusal.code, refusal.reason) == (INVALID, "BATCH_REFUSED")
    assert refusal.violations == {
        "users[0].attributes['x']": "is both set and unset",
        "users[1].consents[0].state": "must be GIVEN or DENIED",
        "users[2].user_id": "is required",
    }


def test_empty_alias_and_alias_of_itself_are_refused(service: Serving) -> None:
    call = service.ingest.AliasUser
    empty = refused(service, call, ingest_service_pb2.AliasUserRequest(parent=ACCOUNT))
    assert (empty.code, set(empty.violations)) == (INVALID, {"from_user_id", "to_user_id"})
    request = ingest_service_pb2.AliasUserRequest(parent=ACCOUNT, from_user_id="u1", to_user_id="u1")
    assert refused(service, call, request).violations == {"to_user_id": "must differ from from_user_id"}


def test_an_alias_cycle_and_a_second_alias(service: Serving) -> None:
    def alias(from_: str, to: str) -> ingest_service_pb2.AliasUserRequest:
        return ingest_service_pb2.AliasUserRequest(parent=ACCOUNT, from_user_id=from_, to_user_id=to)

    service.ingest.AliasUser(alias("x1", "x2"))
    cycle = refusal_of(service.ingest.AliasUser, alias("x2", "x1"))
    assert (cycle.code, cycle.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALIAS_CYCLE")
    second = refusal_of(service.ingest.AliasUser, alias("x1", "x3"))
    assert (second.code, second.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_ALIASED")
    service.ingest.IngestEvents(ingest(event(user_id="x1"), event(user_id="x2")))
    known = service.catalog.GetUser(catalog_service_pb2.GetUserRequest(parent=ACCOUNT, user_id="x2"))
    assert known.user.user_id == "x2"


# --- resources ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad_id", ["A", "1a", "a_b", "a" * 64, "-a", "a/b", "ä"])
def test_malformed_ids_are_refused(service: Serving, bad_id: str) -> None:
    request = account.CreateAccountRequest(account_id=bad_id)
    refusal = refused(service, service.accounts.CreateAccount, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["account_id"])


def test_taken_id_is_refused(service: Serving) -> None:
    request = account.CreateAccountRequest(account_id="a")
    refusal = refused(service, service.accounts.CreateAccount, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_ALREADY_EXISTS")
    assert refusal.metadata == {"resource": ACCOUNT}


def test_invalid_account_is_refused(service: Serving) -> None:
    bad = account_pb2.Account(display_name="x" * 101, time_zone="Mars/Olympus", active_audience_limit=-1)
    bad.event_retention.FromSeconds(-1)
    refusal = refused(service, service.accounts.CreateAccount, account.CreateAccountRequest(account=bad))
    assert refusal.code is INVALID
    assert set(refusal.violations) == {
        "account.display_name",
        "account.time_zone",
        "account.active_audience_limit",
        "account.event_retention",
    }


@pytest.mark.parametrize(
    ("paths", "field"),
    [(["nme"], "'nme' is not a field of Journey"), (["inputs.x"], "'inputs.x' is not a field of Journey")],
)
def test_unknown_update_mask_is_refused(service: Serving, paths: list[str], field: str) -> None:
    request = journey_service_pb2.UpdateJourneyRequest(
        journey=journey_pb2.Journey(name=JOURNEY), update_mask=FieldMask(paths=paths)
    )
    refusal = refused(service, service.journeys.UpdateJourney, request)
    assert (refusal.code, refusal.violations) == (INVALID, {"update_mask": field})


def test_update_of_an_immutable_field_is_refused(service: Serving) -> None:
    request = journey_service_pb2.UpdateMilestoneRequest(
        milestone=journey_pb2.Milestone(name=START, parent_milestone=START),
        update_mask=FieldMask(paths=["parent_milestone"]),
    )
    refusal = refused(service, service.journeys.UpdateMilestone, request)
    assert refusal.violations == {
        "update_mask": (
            "'parent_milestone' cannot be changed: delete the milestone and create it anew, or create "
            "another one"
        )
    }


def test_an_etag_that_no_longer_fits(service: Serving) -> None:
    request = journey_service_pb2.UpdateJourneyRequest(
        journey=journey_pb2.Journey(name=JOURNEY, display_name="new", etag="0123456789abcdef")
    )
    refusal = refused(service, service.journeys.UpdateJourney, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal.metadata == {"resource": JOURNEY}


@pytest.mark.parametrize("token", ["x", "AAAA", "\u00e9", "=" * 8])
def test_page_token_of_another_method_is_refused(service: Serving, token: str) -> None:
    request = journey_service_pb2.ListJourneysRequest(parent=ACCOUNT, page_token=token)
    refusal = refused(service, service.journeys.ListJourneys, request)
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_PAGE_TOKEN")
    assert list(refusal.violations) == ["page_token"]


def test_page_token_of_another_request_is_refused(service: Serving) -> None:
    page = service.journeys.ListJourneys(journey_service_pb2.ListJourneysRequest(parent=ACCOUNT, page_size=1))
    assert page.next_page_token
    request = journey_service_pb2.ListJourneysRequest(
        parent=ACCOUNT, page_size=1, query="o", page_token=page.next_page_token
    )
    refusal = refused(service, service.journeys.ListJourneys, request)
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_PAGE_TOKEN")


def test_negative_page_size_is_refused(service: Serving) -> None:
    request = journey_service_pb2.ListJourneysRequest(parent=ACCOUNT, page_size=-1)
    refusal = refused(service, service.journeys.ListJourneys, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["page_size"])


# --- journeys -----------------------------------------------------------------------------------------------


def create(milestone: journey_pb2.Milestone, parent: str = JOURNEY) -> Any:
    return journey_service_pb2.CreateMilestoneRequest(parent=parent, milestone=milestone)


def test_a_journey_over_an_unknown_input(service: Serving) -> None:
    request = journey_service_pb2.CreateJourneyRequest(
        parent=ACCOUNT, journey=journey_pb2.Journey(inputs=[INPUT, f"{INPUT}x"])
    )
    refusal = refused(service, service.journeys.CreateJourney, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["journey.inputs[1]"])


def test_a_milestone_under_another_journeys_parent(service: Serving) -> None:
    milestone = journey_pb2.Milestone(
        parent_milestone=f"{OTHER_JOURNEY}/milestones/elsewhere", criteria=criteria("all_of {}")
    )
    refusal = refused(service, service.journeys.CreateMilestone, create(milestone))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "PARENT_IN_OTHER_JOURNEY"


def test_a_milestone_under_an_unknown_parent(service: Serving) -> None:
    milestone = journey_pb2.Milestone(parent_milestone=f"{START}x", criteria=criteria("all_of {}"))
    refusal = refused(service, service.journeys.CreateMilestone, create(milestone))
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["milestone.parent_milestone"])


def test_remaining_users_without_a_criteria_sibling(service: Serving) -> None:
    milestone = journey_pb2.Milestone(parent_milestone=START, kind=journey_pb2.MILESTONE_KIND_REMAINING_USERS)
    refusal = refused(service, service.journeys.CreateMilestone, create(milestone))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refusal.reason == "REMAINING_USERS_NEED_CRITERIA"


def test_a_second_remaining_users_milestone(service: Serving) -> None:
    remaining = journey_pb2.Milestone(kind=journey_pb2.MILESTONE_KIND_REMAINING_USERS)
    first = service.journeys.CreateMilestone(create(remaining)).milestone
    try:
        refusal = refused(service, service.journeys.CreateMilestone, create(remaining))
        assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal.reason == "REMAINING_USERS_EXISTS"
        assert refusal.metadata == {"milestone": first.name}
    finally:
        service.journeys.DeleteMilestone(journey_service_pb2.DeleteMilestoneRequest(name=first.name))


def test_a_milestone_without_criteria_and_one_with_too_many(service: Serving) -> None:
    bare = refused(service, service.journeys.CreateMilestone, create(journey_pb2.Milestone()))
    assert (bare.code, list(bare.violations)) == (INVALID, ["milestone.criteria"])
    remaining = journey_pb2.Milestone(
        kind=journey_pb2.MILESTONE_KIND_REMAINING_USERS, criteria=criteria("all_of {}")
    )
    laden = refused(service, service.journeys.CreateMilestone, create(remaining))
    assert (laden.code, list(laden.violations)) == (INVALID, ["milestone.criteria"])


def test_unknown_milestone_kind_is_refused(service: Serving) -> None:
    milestone = journey_pb2.Milestone(criteria=criteria("all_of {}"))
    milestone.MergeFromString(b"\x28\x4d")  # kind: 77
    refusal = refused(service, service.journeys.CreateMilestone, create(milestone))
    assert (refusal.code, refusal.violations) == (INVALID, {"milestone.kind": "is not a milestone kind"})


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", ["milestone.criteria"]),
        (
            "user_attribute { key: 'k' test { matches: '(' } }",
            ["milestone.criteria.user_attribute.test.matches"],
        ),
        (
            "event { window { time_range { start { seconds: 5 } end { seconds: 5 } } } }",
            ["milestone.criteria.event.window.range"],
        ),
        (
            "event { test { between { low: 2 high: 1 } } } ",
            ["milestone.criteria.event.test.between"],
        ),
        (
            f"event {{ inputs: '{INPUT}x' }}",
            ["milestone.criteria.event.inputs[0]"],
        ),
        (
            f"audience {{ name: '{AUDIENCE}' }}",
            ["milestone.criteria.audience.name"],
        ),
        (
            "any_of { criteria { event { test { equals: nan } } } criteria { bucket { to_percent: 101 } } }",
            [
                "milestone.criteria.any_of.criteria[0].event.test.equals",
                "milestone.criteria.any_of.criteria[1].bucket.to_percent",
            ],
        ),
        ("negation { " * 33 + "all_of {}" + "}" * 33, ["milestone.criteria" + ".not" * 32]),
        ("all_of { " + "criteria { all_of {} } " * 500 + "}", ["milestone.criteria"]),
        (
            "user_attribute { key: 'k' test { one_of { " + "values { number_value: 1 } " * 10_001 + "} } }",
            ["milestone.criteria.user_attribute.test.in"],
        ),
        (
            "event { aggregate: AGGREGATE_SUM }",
            ["milestone.criteria.event.of"],
        ),
        (
            "user_attribute { key: '$first_seen' test { contains: 'x' } }",
            ["milestone.criteria.user_attribute.test.contains"],
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_invalid_criteria_are_refused(service: Serving, text: str, fields: list[str]) -> None:
    milestone = journey_pb2.Milestone(criteria=criteria(text))
    refusal = refused(service, service.journeys.CreateMilestone, create(milestone))
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_CRITERIA")
    assert list(refusal.violations) == fields


def test_unseen_name_causes_a_warning(service: Serving) -> None:
    milestone = journey_pb2.Milestone(criteria=criteria("event { name: 'bvy' }"))
    written = service.journeys.CreateMilestone(create(milestone))
    assert [w.field for w in written.warnings] == ["milestone.criteria.event.name"]
    service.journeys.DeleteMilestone(journey_service_pb2.DeleteMilestoneRequest(name=written.milestone.name))


def test_a_milestone_with_children_is_not_deleted(service: Serving) -> None:
    child = service.journeys.CreateMilestone(
        create(journey_pb2.Milestone(parent_milestone=START, criteria=criteria("all_of {}")))
    ).milestone
    request = journey_service_pb2.DeleteMilestoneRequest(name=START)
    refusal = refused(service, service.journeys.DeleteMilestone, request)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "MILESTONE_HAS_CHILDREN",
    )
    assert refusal.metadata == {"children": child.name}
    service.journeys.DeleteMilestone(journey_service_pb2.DeleteMilestoneRequest(name=child.name))


def test_a_journey_with_milestones_is_not_deleted(service: Serving) -> None:
    request = journey_service_pb2.DeleteJourneyRequest(name=JOURNEY)
    refusal = refused(service, service.journeys.DeleteJourney, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOURNEY_NOT_EMPTY")


# --- audiences ----------------------------------------------------------------------------------------------


AUDIENCE_CALLS = [
    ("GetAudience", audience_service_pb2.GetAudienceRequest(name=AUDIENCE)),
    ("EstimateAudience", audience_service_pb2.EstimateAudienceRequest(name=AUDIENCE)),
    ("CountAudience", audience_service_pb2.CountAudienceRequest(name=AUDIENCE)),
    ("CheckMembership", audience_service_pb2.CheckMembershipRequest(audience=AUDIENCE, user_id="u1")),
    ("ListMembers", audience_service_pb2.ListMembersRequest(parent=AUDIENCE)),
    ("ExportMembers", audience_service_pb2.ExportMembersRequest(name=AUDIENCE)),
    ("WatchMembership", audience_service_pb2.WatchMembershipRequest(audience=AUDIENCE, snapshot=True)),
    ("ExplainAudience", audience_service_pb2.ExplainAudienceRequest(name=AUDIENCE)),
    ("ExplainMembership", audience_service_pb2.ExplainMembershipRequest(name=AUDIENCE, user_id="u1")),
]


@pytest.mark.parametrize(("method", "request_"), AUDIENCE_CALLS, ids=[name for name, _ in AUDIENCE_CALLS])
def test_an_unknown_audience(service: Serving, method: str, request_: Any) -> None:
    refusal = refused(service, getattr(service.audiences, method), request_)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    assert refusal.metadata == {"resource": AUDIENCE}


def test_malformed_name_is_refused(service: Serving) -> None:
    request = audience_service_pb2.CountAudienceRequest(name="audiences/1")
    refusal = refused(service, service.audiences.CountAudience, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["name"])


def test_missing_target_is_refused(service: Serving) -> None:
    request = audience_service_pb2.EstimateAudienceRequest()
    refusal = refused(service, service.audiences.EstimateAudience, request)
    assert (refusal.code, refusal.violations) == (INVALID, {"name": "must have a name or a draft"})


def test_invalid_draft_is_refused(service: Serving) -> None:
    request = audience_service_pb2.EstimateAudienceRequest(
        draft=audience_service_pb2.MilestoneDraft(journey=JOURNEY, criteria=criteria("negation {}"))
    )
    refusal = refused(service, service.audiences.EstimateAudience, request)
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_CRITERIA")
    assert refusal.violations == {"draft.criteria.not": "must have exactly one node"}


def test_an_instant_out_of_range(service: Serving) -> None:
    request = audience_service_pb2.CountAudienceRequest(name=START)
    request.as_of.nanos = -1
    refusal = refused(service, service.audiences.CountAudience, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["as_of"])


def test_revision_of_another_store_is_refused(service: Serving) -> None:
    request = audience_service_pb2.CountAudienceRequest(name=START, at_least="otherstore.1")
    refusal = refused(service, service.audiences.CountAudience, request)
    assert (refusal.code, refusal.reason) == (INVALID, "INVALID_REVISION")
    assert list(refusal.violations) == ["at_least"]


@pytest.mark.parametrize("error", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_relative_error_is_refused(service: Serving, error: float) -> None:
    request = audience_service_pb2.EstimateAudienceRequest(name=START, max_relative_error=error)
    refusal = refused(service, service.audiences.EstimateAudience, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["max_relative_error"])


@pytest.mark.parametrize("count", [0, 1, 6])
def test_too_few_or_many_audiences_to_compare(service: Serving, count: int) -> None:
    request = audience_service_pb2.CompareAudiencesRequest(audiences=[START] * count)
    refusal = refused(service, service.audiences.CompareAudiences, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["audiences"])


def test_watching_an_inactive_audience_is_refused(service: Serving) -> None:
    milestone = service.journeys.GetMilestone(journey_service_pb2.GetMilestoneRequest(name=START)).milestone
    request = audience_service_pb2.WatchMembershipRequest(audience=milestone.audience, snapshot=True)
    refusal = refused(service, service.audiences.WatchMembership, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONNECTION_STATE")


def test_watch_without_cursor_or_snapshot_is_refused(service: Serving) -> None:
    request = audience_service_pb2.WatchMembershipRequest(audience=AUDIENCE)
    refusal = refused(service, service.audiences.WatchMembership, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["cursor"])


def test_unknown_user(service: Serving) -> None:
    request = catalog_service_pb2.GetUserRequest(parent=ACCOUNT, user_id="nobody")
    refusal = refused(service, service.catalog.GetUser, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    empty = refused(service, service.catalog.GetUser, catalog_service_pb2.GetUserRequest(parent=ACCOUNT))
    assert (empty.code, list(empty.violations)) == (INVALID, ["user_id"])


# --- outputs and connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/etc", "../x", "a/../../b", "a\0b"])
def test_file_path_outside_its_directory_is_refused(service: Serving, path: str) -> None:
    request = connection_service_pb2.CreateOutputRequest(
        parent=ACCOUNT, output=connection_pb2.Output(file=connection_pb2.FileOutput(path=path))
    )
    refusal = refused(service, service.connections.CreateOutput, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["output.file.path"])


def test_an_output_without_a_kind(service: Serving) -> None:
    request = connection_service_pb2.CreateOutputRequest(parent=ACCOUNT, output=connection_pb2.Output())
    refusal = refused(service, service.connections.CreateOutput, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["output"])


def test_connection_without_audience_or_output_is_refused(service: Serving) -> None:
    request = connection_service_pb2.CreateConnectionRequest(
        parent=ACCOUNT,
        connection=connection_pb2.Connection(
            audience=AUDIENCE,
            output=f"{ACCOUNT}/outputs/none",
            batching=connection_pb2.Batching(max_changes=-1),
        ),
    )
    refusal = refused(service, service.connections.CreateConnection, request)
    assert refusal.code is INVALID
    assert set(refusal.violations) == {
        "connection.audience",
        "connection.output",
        "connection.batching.max_changes",
    }


@pytest.mark.parametrize("method", ["ActivateConnection", "DeactivateConnection", "ResumeConnection"])
def test_activating_a_missing_connection_is_refused(service: Serving, method: str) -> None:
    request = getattr(connection_service_pb2, f"{method}Request")(name=f"{ACCOUNT}/connections/none")
    refusal = refused(service, getattr(service.connections, method), request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


# --- admin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backup_id", ["", "../x", "A", "a/b"])
def test_malformed_backup_id_is_refused(service: Serving, backup_id: str) -> None:
    request = admin_service_pb2.CreateBackupRequest(backup_id=backup_id)
    refusal = refused(service, service.admin.CreateBackup, request)
    assert (refusal.code, list(refusal.violations)) == (INVALID, ["backup_id"])


def test_taken_backup_id_is_refused(service: Serving, tmp_path: Path) -> None:
    request = admin_service_pb2.CreateBackupRequest(backup_id="once")
    directory = Path(service.admin.CreateBackup(request).directory)
    assert directory.is_dir()
    refusal = refused(service, service.admin.CreateBackup, request)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "RESOURCE_ALREADY_EXISTS")
