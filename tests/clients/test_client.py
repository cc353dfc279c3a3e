"""The client's helpers, against a fake server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

import grpc
import pytest

from milepost import Client, Rejected, Sent, _retrying, errors, make_event, make_user_update
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import CreateAccountResponse, GetAccountRequest, GetAccountResponse
from milepost.v1.audience_pb2 import MembershipChange, Size
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER as MEMBER,
)
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_NOT_MEMBER as NOT_MEMBER,
)
from milepost.v1.audience_service_pb2 import (
    BatchCheckMembershipResponse,
    EstimateAudienceResponse,
    ListMembersResponse,
    MembershipChanges,
    MembershipSnapshot,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
    UserMemberships,
    WatchMembershipRequest,
    WatchMembershipResponse,
)
from milepost.v1.ingest_service_pb2 import (
    IngestEventsRequest,
    IngestEventsResponse,
    Rejection,
    UpsertUsersResponse,
)
from milepost.v1.journey_service_pb2 import (
    CreateJourneyRequest,
    CreateJourneyResponse,
    CreateMilestoneResponse,
)
from tests.clients.bridge import async_client
from tests.clients.fake import Fake, Refusal, serving

TIME = datetime(2026, 3, 1, tzinfo=UTC)
NOT_FOUND = Refusal(grpc.StatusCode.NOT_FOUND, "no such thing", reason="RESOURCE_NOT_FOUND")
EPOCH = "ab12"
DOWN = Refusal(grpc.StatusCode.UNAVAILABLE, "stopping")
LIMITED = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", reason="RATE_LIMITED", retry_after_ms=20)


def refuse(refusal: Refusal) -> NoReturn:
    raise refusal


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retrying, "BACKOFF_FIRST_SECONDS", 0.0)


opened: Callable[..., AbstractContextManager[Client]] = Client
"""Makes the client that a test is for."""


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"], autouse=True)
def both_clients(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is for both clients."""
    monkeypatch.setitem(globals(), "opened", request.param)


@contextmanager
def calling(fake: Fake, **options: Any) -> Iterator[Client]:
    """A client of the account `acme` of a service with these methods."""
    with serving(fake) as target, opened(target, account="acme", **options) as client:
        yield client


# --- errors ---


def test_an_error_carries_code_reason_metadata_and_violations() -> None:
    refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the criteria are refused",
        reason="INVALID_CRITERIA",
        metadata={"count": "2"},
        violations=[("milestone.criteria.event.name", "too long"), ("milestone.display_name", "empty")],
    )
    fake = Fake({"GetAccount": lambda _: refuse(refusal)})
    with calling(fake) as client, pytest.raises(errors.InvalidArgument) as raised:
        client.get_account()
    error = raised.value
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.reason, error.metadata) == ("INVALID_CRITERIA", {"count": "2"})
    assert error.violations == (
        errors.Violation("milestone.criteria.event.name", "too long"),
        errors.Violation("milestone.display_name", "empty"),
    )
    assert str(error) == (
        "INVALID_CRITERIA: the criteria are refused\n"
        "  milestone.criteria.event.name: too long\n"
        "  milestone.display_name: empty"
    )


@pytest.mark.parametrize(
    ("message", "violations", "said"),
    [
        ("name: expected x; got y", [("name", "expected x; got y")], "name: expected x; got y"),
        ("a: one; b: two", [("a", "one"), ("b", "two")], "2 fields are at fault\n  a: one\n  b: two"),
        ("a: one, at least", [("a", "one"), ("b", "two")], "a: one, at least\n  b: two"),
        ("nothing of it", [("a", "one")], "nothing of it\n  a: one"),
    ],
)
def test_an_error_says_each_fault_once(message: str, violations: list[tuple[str, str]], said: str) -> None:
    faults = [errors.Violation(*each) for each in violations]
    error = errors.InvalidArgument(grpc.StatusCode.INVALID_ARGUMENT, message, violations=faults)
    assert str(error) == f"INVALID_ARGUMENT: {said}"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.NOT_FOUND, errors.NotFound),
        (grpc.StatusCode.ALREADY_EXISTS, errors.AlreadyExists),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.FailedPrecondition),
        (grpc.StatusCode.ABORTED, errors.Aborted),
        (grpc.StatusCode.OUT_OF_RANGE, errors.OutOfRange),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.ResourceExhausted),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented),
        (grpc.StatusCode.UNAUTHENTICATED, errors.Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied),
        (grpc.StatusCode.CANCELLED, errors.Cancelled),
        (grpc.StatusCode.DATA_LOSS, errors.DataLoss),
        (grpc.StatusCode.INTERNAL, errors.MilepostError),
    ],
)
def test_each_code_has_its_exception(code: grpc.StatusCode, expected: type[errors.MilepostError]) -> None:
    fake = Fake({"GetAccount": lambda _: refuse(Refusal(code, "refused"))})
    with calling(fake) as client, pytest.raises(errors.MilepostError) as raised:
        client.get_account()
    assert type(raised.value) is expected
    assert str(raised.value) == f"{code.name}: refused"


# --- calls ---


def test_calls_carry_the_api_key() -> None:
    fake = Fake({"GetAccount": lambda _: GetAccountResponse()})
    with calling(fake, api_key="s3cret") as client:
        client.get_account()
    assert fake.metadata[0]["authorization"] == "Bearer s3cret"


def test_client_timeout_applies_unless_the_call_sets_its_own() -> None:
    release = threading.Event()
    fake = Fake({"GetAccount": lambda _: release.wait(30) and GetAccountResponse()})
    request = GetAccountRequest(name="accounts/acme")
    with calling(fake, timeout=0.05) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.get_account()
        release.set()
        assert client.accounts.GetAccount(request, timeout=30) == GetAccountResponse()


def test_a_client_with_another_timeout_shares_the_connection() -> None:
    release = threading.Event()
    fake = Fake({"GetAccount": lambda _: release.wait(30) and GetAccountResponse()})
    with calling(fake, api_key="s3cret") as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.with_timeout(0.05).get_account()
        release.set()
        assert client.get_account() == Account()
    assert {each["authorization"] for each in fake.metadata} == {"Bearer s3cret"}


def test_read_is_retried_while_the_service_is_unavailable() -> None:
    answers: Iterator[GetAccountResponse | Refusal] = iter(
        [DOWN, DOWN, GetAccountResponse(account=Account(name="accounts/acme"))]
    )

    def get_account(_: Any) -> GetAccountResponse:
        answer = next(answers)
        return refuse(answer) if isinstance(answer, Refusal) else answer

    fake = Fake({"GetAccount": get_account})
    with calling(fake) as client:
        assert client.get_account().name == "accounts/acme"
    assert len(fake.of("GetAccount")) == 3


def test_write_through_a_stub_is_not_retried() -> None:
    fake = Fake({"CreateJourney": lambda _: refuse(DOWN)})
    with calling(fake) as client, pytest.raises(errors.Unavailable):
        client.journeys.CreateJourney(CreateJourneyRequest(parent="accounts/acme"))
    assert len(fake.of("CreateJourney")) == 1


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("request_id", ["", "mine"])
def test_a_creation_is_retried_under_one_request_id(request_id: str) -> None:
    answers: Iterator[Refusal | None] = iter([DOWN, DOWN, None])

    def create(_: Any) -> CreateJourneyResponse:
        answer = next(answers)
        return refuse(answer) if answer else CreateJourneyResponse()

    fake = Fake({"CreateJourney": create})
    with calling(fake) as client:
        client.create_journey("winback", request_id=request_id)
    first, *others = (request.request_id for request in fake.of("CreateJourney"))
    assert first == request_id or not request_id
    assert others == [first, first]
    assert first


@pytest.mark.usefixtures("no_pauses")
def test_a_limit_is_waited_for_only_when_the_service_says_how_long() -> None:
    answers: Iterator[Refusal] = iter([LIMITED, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")])
    fake = Fake({"CreateJourney": lambda _: refuse(next(answers))})
    with calling(fake) as client, pytest.raises(errors.ResourceExhausted, match="full") as raised:
        client.create_journey("winback")
    assert len(fake.requests) == 2
    assert raised.value.retry_after_seconds is None


# --- batches ---


def accept(request: IngestEventsRequest) -> IngestEventsResponse:
    return IngestEventsResponse(accepted=len(request.events), revision=f"after {request.request_id}")


def events(count: int) -> Iterator[Any]:
    return (make_event(f"u{number}", "buy", TIME, {"n": number}) for number in range(count))


def test_events_are_sent_in_batches_with_request_ids_and_the_last_one_alone() -> None:
    fake = Fake({"IngestEvents": accept})
    seen: list[int] = []
    with calling(fake) as client:
        sent = client.ingest_events(
            events(10),
            input="w/i",
            request_id="r",
            batch_rows=4,
            progress=lambda done: seen.append(done.rows),
        )
    by_id = {request.request_id: request for request in fake.of("IngestEvents")}
    assert {key: len(request.events) for key, request in by_id.items()} == {"r-0": 4, "r-1": 4, "r-2": 2}
    assert [event.user_id for event in by_id["r-1"].events] == ["u4", "u5", "u6", "u7"]
    assert {(request.parent, request.input) for request in by_id.values()} == {
        ("accounts/acme", "accounts/acme/workspaces/w/inputs/i")
    }
    assert sent == Sent(accepted=10, revision="after r-2")
    assert seen == [4, 8, 10]
    assert fake.of("IngestEvents")[-1].request_id == "r-2"


def test_a_batch_stays_below_the_limit_in_bytes() -> None:
    large = [make_event("u", "buy", TIME, {f"a{i}": "x" * 4_000 for i in range(100)}) for _ in range(25)]
    fake = Fake({"IngestEvents": accept})
    with calling(fake) as client:
        client.ingest_events(large)
    requests = fake.of("IngestEvents")
    assert sum(len(request.events) for request in requests) == 25
    assert [len(request.events) for request in requests] == [10, 10, 5]
    assert max(request.ByteSize() for request in requests) <= 4 * 1024 * 1024


def test_rejections_carry_the_index_among_all_sent_events() -> None:
    def reject_second(request: IngestEventsRequest) -> IngestEventsResponse:
        rejection = Rejection(index=1, reason="TIME_TOO_LATE", field="events[1].time", description="tomorrow")
        return IngestEventsResponse(accepted=len(request.events) - 1, rejections=[rejection])

    with calling(Fake({"IngestEvents": reject_second})) as client:
        sent = client.ingest_events(events(4), batch_rows=2, concurrency=1)
    assert (sent.accepted, sent.rejected) == (2, 2)
    assert sent.rejections == [
        Rejected(1, "TIME_TOO_LATE", "events[1].time", "tomorrow"),
        Rejected(3, "TIME_TOO_LATE", "events[1].time", "tomorrow"),
    ]


def test_fully_rejected_batch_counts_as_rejected() -> None:
    def refuse_second(request: IngestEventsRequest) -> IngestEventsResponse:
        if request.request_id.endswith("-0"):
            return accept(request)
        return refuse(
            Refusal(
                grpc.StatusCode.INVALID_ARGUMENT,
                "nothing could be taken",
                reason="BATCH_REFUSED",
                violations=[
                    ("events[0].user_id", "is empty", "MISSING_FIELD"),
                    ("events[1].user_id", "is empty"),  # As a service answers that gives rows no reasons.
                ],
            )
        )

    with calling(Fake({"IngestEvents": refuse_second})) as client:
        sent = client.ingest_events(events(4), batch_rows=2, concurrency=1)
    assert (sent.accepted, sent.rejected, sent.rows) == (2, 2, 4)
    assert [(each.index, each.reason) for each in sent.rejections] == [
        (2, "MISSING_FIELD"),
        (3, "BATCH_REFUSED"),
    ]


def test_a_refused_request_is_raised() -> None:
    missing = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "unknown input", reason="INVALID_ARGUMENT")
    fake = Fake({"IngestEvents": lambda _: refuse(missing)})
    with calling(fake) as client, pytest.raises(errors.InvalidArgument, match="unknown input"):
        client.ingest_events(events(3))


@pytest.mark.usefixtures("no_pauses")
def test_batch_is_retried_under_the_same_id_while_the_service_is_unavailable() -> None:
    failures = iter([True, True, False])

    def sometimes(request: IngestEventsRequest) -> IngestEventsResponse:
        return refuse(DOWN) if next(failures) else accept(request)

    fake = Fake({"IngestEvents": sometimes})
    with calling(fake) as client:
        sent = client.ingest_events(events(2), request_id="r")
    assert sent.accepted == 2
    assert [request.request_id for request in fake.of("IngestEvents")] == ["r-0"] * 3


@pytest.mark.usefixtures("no_pauses")
def test_retries_end_after_a_few_attempts() -> None:
    fake = Fake({"IngestEvents": lambda _: refuse(DOWN)})
    with calling(fake) as client, pytest.raises(errors.Unavailable):
        client.ingest_events(events(1))
    assert len(fake.of("IngestEvents")) == _retrying.ATTEMPTS_MAX


def test_nothing_to_send_sends_nothing() -> None:
    fake = Fake({"IngestEvents": accept})
    with calling(fake) as client:
        assert client.ingest_events([]) == Sent()
    assert fake.requests == []


def test_users_are_sent_in_batches_like_events() -> None:
    fake = Fake({"UpsertUsers": lambda request: UpsertUsersResponse(accepted=len(request.users))})
    users = [make_user_update("ann", {"plan": "pro"}, time=TIME, unset=["old"], identities={"email": "a@b"})]
    with calling(fake) as client:
        assert client.upsert_users(users, input="w/i", request_id="r").accepted == 1
    [request] = fake.of("UpsertUsers")
    assert (request.parent, request.input, request.request_id) == (
        "accounts/acme",
        "accounts/acme/workspaces/w/inputs/i",
        "r-0",
    )
    assert list(request.users) == users


# --- pages and names ---


def test_pages_are_followed_to_the_end() -> None:
    pages = {"": (["a", "b"], "2"), "2": (["c"], "3"), "3": ([], "")}

    def list_members(request: Any) -> ListMembersResponse:
        user_ids, following = pages[request.page_token]
        return ListMembersResponse(user_ids=user_ids, next_page_token=following)

    fake = Fake({"ListMembers": list_members})
    with calling(fake) as client:
        assert list(client.list_members("winback/bought", at_least="rev")) == ["a", "b", "c"]
    assert [(request.parent, request.at_least) for request in fake.of("ListMembers")] == [
        ("accounts/acme/journeys/winback/milestones/bought", "rev")
    ] * 3


def test_checks_name_milestones_and_audiences_as_they_are() -> None:
    answer = BatchCheckMembershipResponse(
        users=[
            UserMemberships(user_id="ann", statuses=[MEMBER, NOT_MEMBER]),
            UserMemberships(user_id="bob", statuses=[NOT_MEMBER, NOT_MEMBER]),
        ]
    )
    fake = Fake({"BatchCheckMembership": lambda _: answer})
    bought = "accounts/acme/journeys/winback/milestones/bought"
    with calling(fake) as client:
        found = client.check_many(
            ["ann", "bob"], ["winback/bought", "x2"], as_of=datetime(2026, 1, 2, tzinfo=UTC)
        )
    assert found == {"ann": {bought}, "bob": set()}
    [request] = fake.of("BatchCheckMembership")
    assert list(request.audiences) == [bought, "accounts/acme/audiences/x2"]
    assert request.as_of.ToJsonString() == "2026-01-02T00:00:00Z"


def test_id_without_account_is_refused() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(ValueError, match="no account set"):
        client.journey_name("winback")


def test_an_estimate_has_one_precision() -> None:
    fake = Fake({"EstimateAudience": lambda _: EstimateAudienceResponse(size=Size(users=7))})
    with calling(fake) as client:
        assert client.estimate("winback/bought", max_relative_error=0.05).size.users == 7
        with pytest.raises(ValueError, match="at most one"):
            client.estimate("winback/bought", exact=True, max_relative_error=0.05)
    [request] = fake.of("EstimateAudience")
    assert request.WhichOneof("precision") == "max_relative_error"


# --- create, or get ---


def test_missing_resources_are_created() -> None:
    created = CreateAccountResponse(account=Account(name="accounts/acme"))
    fake = Fake({"GetAccount": lambda _: refuse(NOT_FOUND), "CreateAccount": lambda _: created})
    with calling(fake) as client:
        assert client.ensure_account(display_name="Acme").name == "accounts/acme"
    [request] = fake.of("CreateAccount")
    assert (request.account_id, request.account.display_name) == ("acme", "Acme")


def test_existing_resources_are_not_created() -> None:
    old = Account(name="accounts/acme", display_name="Old")
    fake = Fake({"GetAccount": lambda _: GetAccountResponse(account=old)})
    with calling(fake) as client:
        assert client.ensure_account(display_name="Old") == old


def test_resource_created_concurrently_is_returned() -> None:
    answers: Iterator[GetAccountResponse | Refusal] = iter(
        [NOT_FOUND, GetAccountResponse(account=Account(name="accounts/acme", display_name="Theirs"))]
    )

    def get_account(_: Any) -> GetAccountResponse:
        answer = next(answers)
        return refuse(answer) if isinstance(answer, Refusal) else answer

    taken = Refusal(grpc.StatusCode.ALREADY_EXISTS, "taken", reason="RESOURCE_ALREADY_EXISTS")
    fake = Fake({"GetAccount": get_account, "CreateAccount": lambda _: refuse(taken)})
    with calling(fake) as client:
        assert client.ensure_account().display_name == "Theirs"


def test_milestone_without_criteria_takes_remaining_users() -> None:
    fake = Fake(
        {
            "GetMilestone": lambda _: refuse(NOT_FOUND),
            "CreateMilestone": lambda _: CreateMilestoneResponse(),
        }
    )
    with calling(fake) as client:
        client.ensure_milestone("winback", "rest", parent_milestone="winback/bought")
    [request] = fake.of("CreateMilestone")
    assert request.milestone.kind == 2
    assert not request.milestone.HasField("criteria")
    assert request.milestone.parent_milestone == "accounts/acme/journeys/winback/milestones/bought"


@pytest.mark.parametrize("journey", ["winback", "accounts/acme/journeys/winback"])
@pytest.mark.parametrize(
    "parent", ["bought", "winback/bought", "accounts/acme/journeys/winback/milestones/bought"]
)
def test_a_parent_is_given_by_its_id_in_the_journey_or_by_more(journey: str, parent: str) -> None:
    fake = Fake(
        {
            "GetMilestone": lambda _: refuse(NOT_FOUND),
            "CreateMilestone": lambda _: CreateMilestoneResponse(),
        }
    )
    with calling(fake) as client:
        client.create_milestone(journey, "often", parent_milestone=parent)
        client.ensure_milestone(journey, "often", parent_milestone=parent)
        client.ensure_milestone(journey, "top")
    assert [request.milestone.parent_milestone for request in fake.of("CreateMilestone")] == [
        "accounts/acme/journeys/winback/milestones/bought",
        "accounts/acme/journeys/winback/milestones/bought",
        "",
    ]


# --- watching ---


def change(sequence: int) -> MembershipChange:
    return MembershipChange(sequence=sequence, user_id=f"u{sequence}", entered=True)


def changes(*sequences: int) -> WatchMembershipResponse:
    return WatchMembershipResponse(changes=MembershipChanges(changes=[change(each) for each in sequences]))


def mark(cursor: int) -> WatchMembershipResponse:
    return WatchMembershipResponse(progress=ProgressMark(cursor=cursor))


def snapshot(*user_ids: str) -> WatchMembershipResponse:
    return WatchMembershipResponse(snapshot=MembershipSnapshot(user_ids=user_ids), epoch=EPOCH)


def begin() -> WatchMembershipResponse:
    return WatchMembershipResponse(snapshot_begin=SnapshotBegin(), epoch=EPOCH)


def end(cursor: int) -> WatchMembershipResponse:
    return WatchMembershipResponse(snapshot_end=SnapshotEnd(cursor=cursor), epoch=EPOCH)


def of_several(message: WatchMembershipResponse, name: str, position: str = "") -> WatchMembershipResponse:
    """The message as a watch of several audiences has it."""
    message.requested_name, message.epoch = name, message.epoch or EPOCH
    if message.HasField("progress"):
        message.position = position
    return message


def played(answers: Iterable[WatchMembershipResponse | Refusal]) -> Iterator[WatchMembershipResponse]:
    """A stream of these messages, ended by the first refusal."""
    for answer in answers:
        yield refuse(answer) if isinstance(answer, Refusal) else answer


@pytest.mark.usefixtures("no_pauses")
def test_watch_resumes_after_the_last_change_returned() -> None:
    streams: dict[int, list[Any]] = {0: [changes(1, 2), mark(2), changes(3), DOWN], 3: [DOWN], 4: []}
    broken_once: list[int] = []

    def watch(request: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        answers = streams[request.cursor]
        if request.cursor == 3 and broken_once:
            answers = [changes(4)]
        broken_once.extend([3] if request.cursor == 3 else [])
        return played(answers)

    fake = Fake({"WatchMembership": watch})
    with calling(fake) as client:
        watching = client.watch("x", cursor=0)
        found = list(watching)
    assert found == [change(1), change(2), ProgressMark(cursor=2), change(3), change(4)]
    assert [request.cursor for request in fake.of("WatchMembership")] == [0, 3, 3]
    assert watching.cursor == 4


@pytest.mark.usefixtures("no_pauses")
def test_watch_waits_where_a_limit_says_how_long() -> None:
    full = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    streams: Iterator[list[Any]] = iter([[changes(1), LIMITED], [LIMITED], [changes(2), full]])
    fake = Fake({"WatchMembership": lambda _: played(next(streams))})
    with calling(fake) as client:
        updates = iter(client.watch("x", cursor=0))
        assert [next(updates), next(updates)] == [change(1), change(2)]
        with pytest.raises(errors.ResourceExhausted, match="full"):
            next(updates)
    assert [request.cursor for request in fake.of("WatchMembership")] == [0, 1, 1]


def test_interrupted_snapshot_raises() -> None:
    def watch(_: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        yield from [begin(), snapshot("a", "b"), changes(6)]
        raise DOWN

    with calling(Fake({"WatchMembership": watch})) as client:
        updates = iter(client.watch("x"))
        assert [next(updates), next(updates)] == [SnapshotBegin(), snapshot("a", "b").snapshot]
        assert next(updates) == change(6)
        with pytest.raises(errors.Unavailable):
            next(updates)


@pytest.mark.usefixtures("no_pauses")
def test_snapshot_resumes_from_the_cursor_after_its_mark() -> None:
    def watch(request: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        if request.WhichOneof("start") == "snapshot":
            yield begin()
            yield from [snapshot("a"), changes(6), end(7)]
            raise DOWN
        yield changes(8)

    fake = Fake({"WatchMembership": watch})
    with calling(fake) as client:
        found = list(client.watch("x"))
    assert found[3:] == [SnapshotEnd(cursor=7), change(8)]
    resumed = fake.of("WatchMembership")[1]
    assert (resumed.cursor, resumed.epoch) == (7, EPOCH)


def test_expired_cursor_names_the_oldest_one() -> None:
    expired = Refusal(
        grpc.StatusCode.OUT_OF_RANGE, "too old", reason="CURSOR_EXPIRED", metadata={"oldest_cursor": "90"}
    )
    fake = Fake({"WatchMembership": lambda _: refuse(expired)})
    with calling(fake) as client, pytest.raises(errors.OutOfRange) as raised:
        list(client.watch("x", cursor=1))
    assert raised.value.metadata == {"oldest_cursor": "90"}


def test_closing_a_watch_ends_it() -> None:
    release = threading.Event()

    def watch(_: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        yield changes(1)
        release.wait(30)

    with calling(Fake({"WatchMembership": watch})) as client:
        watching = client.watch("x", cursor=0)
        found = []
        for update in watching:
            found.append(update)
            watching.close()
        release.set()
    assert found == [change(1)]
