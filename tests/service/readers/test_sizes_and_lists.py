"""Readers answer counts, estimates, lists and exports as the writer does, at once after every write."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from engine.audiences.members import EXPORT_PAGE_USERS
from engine.limits import DEFAULT_LIMITS
from milepost.v1 import (
    account_service_pb2,
    audience_pb2,
    data_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)
from milepost.v1 import audience_service_pb2 as pb
from service.config import Config
from service.readers.answers import Answers
from service.readers.routes import contract_methods
from service.reading import RequestReader
from service.stopping import Stopping
from tests.harness import ACCOUNT, INPUT, Serving, Stubs, eventually, refusal_of, serving
from tests.service.auth.keyed import keyed
from tests.service.delivery.test_delivery import JOURNEY, build, connect, set_tier
from tests.service.readers.answered_alone import (
    ENGINE_METHODS,
    WriterCalls,
    connections,
    count,
    estimate,
    export,
    page,
    status_of,
    wait_until_sizes_are_answered,
    without_instants,
)
from tests.service.readers.asking import GOLD, OTHERS, ask_for_tier, build_split, writer_address

READERS = 2
CONNECTIONS = 4
WRITES = 120
NOISE_USERS = 20
MANY_USERS = 5 * EXPORT_PAGE_USERS
LONG_ID = "many-{:0200d}"
"""Many of these do not fit into what connections buffer."""
UPSERT_USERS = 5_000
"""Users of one request: it has to fit its limit of bytes."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Users u1, u2 and u3 are gold, u4 is silver. Tests add users."""
    directory = tmp_path_factory.mktemp("readers")
    with serving(directory / "store", readers=READERS, access_log="none") as running:
        build_split(running)
        yield running


@pytest.fixture(scope="module")
def calls(service: Serving) -> WriterCalls:
    made = WriterCalls(service)
    wait_until_sizes_are_answered(service, made)
    return made


@pytest.fixture(scope="module")
def writer(service: Serving) -> Iterator[Stubs]:
    with closing(Stubs(writer_address(service))) as direct:
        yield direct


def exports_part(stubs: Stubs, request: pb.ExportMembersRequest) -> pb.ExportMembersResponse:
    """The only message of an export."""
    [part] = stubs.audiences.ExportMembers(request)
    return part


ANSWERED: dict[str, Callable[[Stubs, str], Any]] = {
    "CountAudience": lambda stubs, name: stubs.audiences.CountAudience(pb.CountAudienceRequest(name=name)),
    "EstimateAudience": estimate,
    "ListMembers": lambda stubs, name: page(stubs, name, page_size=2),
    "ExportMembers": lambda stubs, name: exports_part(stubs, pb.ExportMembersRequest(name=name)),
}


@pytest.mark.parametrize("method", ANSWERED)
@pytest.mark.parametrize("asked", ["gold", "others"])
def test_a_reader_alone_sends_what_the_writer_sends(
    service: Serving, calls: WriterCalls, writer: Stubs, method: str, asked: str
) -> None:
    milestone = f"{JOURNEY}/milestones/{asked}"
    audience = service.journeys.GetMilestone(
        journey_service_pb2.GetMilestoneRequest(name=milestone)
    ).milestone.audience
    for name in (milestone, audience):
        expected = ANSWERED[method](writer, name)
        with connections(service, CONNECTIONS) as all_stubs:
            for stubs in all_stubs:
                answer = calls.alone(method, partial(ANSWERED[method], stubs, name))
                assert without_instants(answer) == without_instants(expected)


def test_which_methods_a_reader_answers_is_what_its_documentation_says() -> None:
    """Of all methods, exactly those that the page on operating has in its table."""
    document = Path(__file__).parents[3] / "docs" / "operations.md"
    sections = document.read_text(encoding="utf-8").split("\n## ")
    [section] = [part for part in sections if part.startswith("More than one core")]
    named = {method.name for method in contract_methods() if f"| {method.name} |" in section}
    assert named == ENGINE_METHODS.keys()


def test_every_method_that_a_reader_answers_has_a_route_of_its_own() -> None:
    faulty: Any = None
    answers = Answers(
        faulty,
        faulty,
        faulty,
        RequestReader(1_000, DEFAULT_LIMITS),
        faulty,
        faulty,
        Config(readers=1),
        Stopping(),
    )
    methods = [*answers.checks, *answers.reads, *answers.streams]
    assert {method.rpartition("/")[2] for method in methods} == ENGINE_METHODS.keys()


def test_sizes_include_every_acknowledged_write_while_others_write(
    service: Serving, calls: WriterCalls, writer: Stubs
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    gold, before = set(export(writer)), calls.made.total()
    asked = 0
    with noise(service), connections(service, CONNECTIONS) as all_stubs:
        for _ in range(WRITES):
            user, tier = f"own-{rng.randrange(8)}", rng.choice(["gold", "tin"])
            (gold.add if tier == "gold" else gold.discard)(user)
            set_tier(rng.choice(all_stubs), [user], tier)
            for _ in range(rng.randint(1, 3)):
                asked += 1
                stubs = rng.choice(all_stubs)
                match rng.randrange(4):
                    case 0:
                        assert count(stubs) == len(gold)
                    case 1:
                        assert estimate(stubs).size.users == len(gold)
                    case 2:
                        assert set(page(stubs, page_size=1_000).user_ids) == gold
                    case _:
                        assert set(export(stubs)) == gold
    # Some were answered by readers.
    assert calls.made.total() - before < asked


@contextmanager
def noise(service: Serving) -> Iterator[None]:
    """Others come to the journey, who are never gold, and are erased; and events come that nobody reads."""
    over = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        number = 0
        try:
            while not over.wait(0.02):
                number += 1
                users = [f"noise-{number}-{each}" for each in range(NOISE_USERS)]
                if number % 5 == 0:
                    set_tier(service, users, "silver")
                elif number % 7 == 0:
                    erased = [f"noise-{number // 5 * 5}-{each}" for each in range(3)]
                    request = ingest_service_pb2.DeleteUsersRequest(parent=ACCOUNT, user_ids=erased)
                    service.ingest.DeleteUsers(request)
                else:
                    event = data_pb2.Event(user_id="u4", name="unread")
                    event.time.GetCurrentTime()
                    service.ingest.IngestEvents(
                        ingest_service_pb2.IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[event])
                    )
        except BaseException as failure:
            failures.append(failure)
            raise

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not failures


def test_pages_of_a_list_come_from_readers_and_the_writer_in_turn(
    service: Serving, calls: WriterCalls, writer: Stubs
) -> None:
    users = {f"m{number}" for number in range(40)}
    set_tier(service, users, "gold")
    expected = calls.alone("ListMembers", lambda: page(service, page_size=1_000))
    assert set(expected.user_ids) > users
    for turn in (0, 1):
        found: list[str] = []
        token, number = "", turn
        while True:
            stubs = (service, writer)[number % 2]
            part = page(stubs, page_size=7, page_token=token)
            found += part.user_ids
            token, number = part.next_page_token, number + 1
            if not token:
                break
        assert found == list(expected.user_ids)
    token = page(service, page_size=7).next_page_token
    before = calls.made["ListMembers"]
    assert page(service, page_size=7, page_token=token).user_ids == expected.user_ids[7:14]
    assert calls.made["ListMembers"] == before


def test_an_edit_an_erasure_and_an_alias_hold_from_their_acknowledgement_on(tmp_path: Path) -> None:
    with serving(tmp_path / "store", readers=READERS, access_log="none") as service:
        build_split(service)
        wait_until_sizes_are_answered(service, WriterCalls(service))
        change_and_look(service)


def change_and_look(service: Serving) -> None:
    """Changes users and the definition, and looks at once through several connections."""

    def everywhere(gold: set[str], population: int) -> None:
        with connections(service, CONNECTIONS) as all_stubs:
            for stubs in all_stubs:
                assert count(stubs) == len(gold)
                found = estimate(stubs)
                assert (found.size.users, found.population) == (len(gold), population)
                assert set(page(stubs).user_ids) == gold
                assert set(export(stubs)) == gold

    everywhere({"u1", "u2", "u3"}, 4)
    service.ingest.DeleteUsers(ingest_service_pb2.DeleteUsersRequest(parent=ACCOUNT, user_ids=["u1"]))
    everywhere({"u2", "u3"}, 3)
    service.ingest.AliasUser(
        ingest_service_pb2.AliasUserRequest(parent=ACCOUNT, from_user_id="u2", to_user_id="u3")
    )
    everywhere({"u3"}, 2)
    for tier, gold in (("silver", {"u4"}), ("gold", {"u3"})) * 3:
        ask_for_tier(service, tier)
        everywhere(gold, 2)


def test_a_revision_is_included_in_sizes_and_lists(service: Serving, calls: WriterCalls) -> None:
    update = ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT)
    update.users.add(user_id="new").attributes["tier"].string_value = "gold"
    before = count(service)
    revision = service.ingest.UpsertUsers(update).revision
    assert count(service, at_least=revision) == before + 1
    assert calls.alone("CountAudience", lambda: count(service, at_least=revision)) == before + 1
    listed = calls.alone("ListMembers", lambda: page(service, page_size=1_000, at_least=revision))
    assert "new" in listed.user_ids
    # Its own revision can be asked for again, also from the writer.
    assert estimate(service, at_least=listed.revision).size.users == before + 1


@pytest.mark.parametrize(
    "request_",
    [
        pb.CountAudienceRequest(),
        pb.CountAudienceRequest(name=f"{GOLD}-not"),
        pb.CountAudienceRequest(name=GOLD, at_least="forged"),
        pb.EstimateAudienceRequest(),
        pb.EstimateAudienceRequest(name=GOLD, max_relative_error=-1),
        pb.EstimateAudienceRequest(name=GOLD, time_budget=Duration(seconds=-1)),
        pb.EstimateAudienceRequest(draft=pb.MilestoneDraft(journey="x")),
        pb.ListMembersRequest(parent=GOLD, page_size=-1),
        pb.ListMembersRequest(parent=GOLD, page_token="forged"),
        pb.ListMembersRequest(parent=f"{GOLD}-not"),
        pb.ListMembersRequest(parent=GOLD, as_of=Timestamp(nanos=-1)),
        pb.ExportMembersRequest(),
        pb.ExportMembersRequest(name=GOLD, at_least="forged"),
    ],
    ids=lambda request: f"{type(request).__name__}-{request.ByteSize()}",
)
def test_what_the_writer_refuses_is_refused_in_its_words(
    service: Serving, calls: WriterCalls, writer: Stubs, request_: Any
) -> None:
    name = type(request_).__name__.removesuffix("Request")

    def ask(stubs: Stubs) -> Callable[[Any], Any]:
        method = getattr(stubs.audiences, name)
        return partial(all_of, method) if name == "ExportMembers" else method

    expected = refusal_of(ask(writer), request_)
    assert refusal_of(ask(service), request_) == expected


def all_of(method: Any, request: pb.ExportMembersRequest, timeout: float) -> list[Any]:
    """Every message of a stream."""
    return list(method(request, timeout=timeout))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("EstimateAudience", {"as_of": Timestamp(seconds=1_900_000_000)}),
        ("ListMembers", {"as_of": Timestamp(seconds=1_900_000_000)}),
    ],
)
def test_an_instant_is_for_the_writer(
    service: Serving, calls: WriterCalls, method: str, fields: dict[str, Any]
) -> None:
    before = calls.made[method]
    (estimate if method == "EstimateAudience" else page)(service, **fields)
    assert calls.made[method] == before + 1


def test_estimates_of_others_draw_what_is_left(service: Serving, calls: WriterCalls) -> None:
    found = calls.alone("EstimateAudience", lambda: estimate(service, OTHERS, exact=True))
    assert found.size.users == found.draw.users == found.population - count(service)
    assert found.size.state == found.draw.state == audience_pb2.SIZE_STATE_EXACT


def set_many(service: Stubs, number: int) -> set[str]:
    """Makes many users gold."""
    users = [LONG_ID.format(each) for each in range(number)]
    for start in range(0, number, UPSERT_USERS):
        set_tier(service, users[start : start + UPSERT_USERS], "gold")
    return {*users, "u1", "u2", "u3"}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, WriterCalls, set[str]]]:
    """A service with one reader, and many gold users: an export of them does not fit into what connections
    buffer.
    """
    directory = tmp_path_factory.mktemp("crowd")
    with serving(directory / "store", readers=1, exports_max=2, access_log="none") as service:
        build_split(service)
        gold, calls = set_many(service, MANY_USERS), WriterCalls(service)
        calls.alone("ExportMembers", lambda: export(service))
        yield service, calls, gold


def test_others_are_answered_beside_an_export_that_is_not_read(
    crowd: tuple[Serving, WriterCalls, set[str]],
) -> None:
    service, calls, gold = crowd
    before, exports = calls.made.total(), calls.made["ExportMembers"]
    parts = service.audiences.ExportMembers(pb.ExportMembersRequest(name=GOLD))
    found = [*next(parts).user_ids]
    for _ in range(20):
        assert count(service) == len(gold)
    assert calls.made.total() == before
    set_tier(service, ["later"], "gold")
    # It is what it was when it began.
    found += [user for part in parts for user in part.user_ids]
    assert (len(found), set(found)) == (len(gold), gold)
    assert calls.made["ExportMembers"] == exports
    gold.add("later")


def test_exports_beyond_a_readers_share_are_handed_on(crowd: tuple[Serving, WriterCalls, set[str]]) -> None:
    service, calls, _ = crowd
    calls.alone("ExportMembers", lambda: export(service))
    before = calls.made["ExportMembers"]
    running = [service.audiences.ExportMembers(pb.ExportMembersRequest(name=GOLD)) for _ in range(3)]
    for parts in running:
        next(parts)
    assert calls.made["ExportMembers"] == before + 1
    for parts in running:
        parts.cancel()
    calls.alone("ExportMembers", lambda: export(service))


def test_an_export_ends_with_its_reader_and_another_can_begin(
    crowd: tuple[Serving, WriterCalls, set[str]],
) -> None:
    service, calls, gold = crowd
    calls.alone("ExportMembers", lambda: export(service))
    [pid] = service.application.reader_pids
    before = calls.made["ExportMembers"]
    parts = service.audiences.ExportMembers(pb.ExportMembersRequest(name=GOLD))
    found = set(next(parts).user_ids)
    assert calls.made["ExportMembers"] == before
    os.kill(pid, signal.SIGKILL)
    # Parts that are on their way may still come.
    assert code_of_end(parts, found) is grpc.StatusCode.UNAVAILABLE
    assert found < gold
    eventually(lambda: service.application.reader_pids not in ([], [pid]))
    assert set(eventually(lambda: exported_again(service))) == gold


def code_of_end(parts: Any, found: set[str]) -> grpc.StatusCode:
    """Adds the parts of an export that still come, and returns how it ends."""
    try:
        for part in parts:
            found |= set(part.user_ids)
    except grpc.RpcError as error:
        return status_of(error)
    return grpc.StatusCode.OK


def exported_again(service: Serving) -> list[str]:
    """An export by the reader that has taken the place of another; nothing while there is none."""
    try:
        return export(service)
    except grpc.RpcError as error:
        if status_of(error) is not grpc.StatusCode.UNAVAILABLE:
            raise
        return []


def test_a_reader_answers_only_callers_whose_keys_permit_it(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", readers=1) as keys:
        operator = keys.operator
        connect(operator, build(operator))
        reading = keys.with_key(ACCOUNT, "reads", "READ")
        operator.accounts.CreateAccount(account_service_pb2.CreateAccountRequest(account_id="b"))
        foreign = keys.with_key("accounts/b", "reads", "READ")
        sending = keys.with_key(ACCOUNT, "sends", "INGEST")
        calls = WriterCalls(keys.service)
        for method, ask in ANSWERED.items():
            calls.alone(method, partial(ask, reading, GOLD))
            for caller, code in (
                (foreign, grpc.StatusCode.NOT_FOUND),
                (sending, grpc.StatusCode.PERMISSION_DENIED),
                (keys.caller("none"), grpc.StatusCode.UNAUTHENTICATED),
            ):
                with pytest.raises(grpc.RpcError) as refused:
                    ask(caller, GOLD)
                assert status_of(refused.value) is code
