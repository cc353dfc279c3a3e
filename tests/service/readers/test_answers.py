"""Readers answer checks as the writer does, at once after every write, and alone when they can."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost.v1 import (
    account_service_pb2,
    audience_service_pb2,
    ingest_service_pb2,
)
from tests.harness import ACCOUNT, INPUT, Serving, Stubs, eventually, refusal_of, serving
from tests.service.auth.keyed import keyed
from tests.service.auth.test_limits import RunningStream
from tests.service.delivery.test_delivery import build, connect, set_tier
from tests.service.readers.asking import (
    GOLD,
    MEMBER,
    NOT_MEMBER,
    OTHERS,
    ask_for_tier,
    batch,
    build_split,
    check,
    writer_address,
)

READERS = 2
CONNECTIONS = 4
WRITES = 150
NOISE_USERS = 50


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", readers=READERS, access_log="none") as running:
        build_split(running)
        wait_until_answered(running)
        yield running


class Calls:
    """Counts the checks that reach the writer."""

    def __init__(self, service: Serving) -> None:
        self.count = 0
        members: Any = service.application.engine.members
        members.check = self._counted(members.check)
        members.batch_check = self._counted(members.batch_check)

    def _counted(self, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return ask(*args, **kwargs)

        return asked


def wait_until_answered(service: Serving) -> None:
    """Waits until readers answer checks alone."""
    writer = Calls(service)

    def is_answered() -> bool:
        before = writer.count
        check(service, "u1")
        check(service, "u4", OTHERS)
        return writer.count == before

    eventually(is_answered)


@contextmanager
def connections(service: Serving, count: int) -> Iterator[list[Stubs]]:
    """Several connections, which the kernel spreads over the readers."""
    made = [Stubs(service.address) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def test_readers_answer_alone_what_is_settled(service: Serving) -> None:
    writer = Calls(service)
    with connections(service, CONNECTIONS) as all_stubs:
        for stubs in all_stubs:
            assert [check(stubs, user) for user in ("u1", "u4", "nobody")] == [True, False, False]
            assert [check(stubs, user, OTHERS) for user in ("u1", "u4", "nobody")] == [False, True, False]
            assert batch(stubs, ["u1", "u4", "nobody"]) == [
                [MEMBER, NOT_MEMBER],
                [NOT_MEMBER, MEMBER],
                [NOT_MEMBER, NOT_MEMBER],
            ]
    assert writer.count == 0


def test_a_check_sees_every_acknowledged_write_while_others_write(service: Serving) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    over = threading.Event()

    def write_others() -> None:
        number = 0
        while not over.wait(0.01):
            number += 1
            set_tier(service, [f"noise-{number}-{each}" for each in range(NOISE_USERS)], "gold")

    noise = threading.Thread(target=write_others)
    noise.start()
    try:
        with connections(service, CONNECTIONS) as all_stubs:
            for _ in range(WRITES):
                user, tier = f"own-{rng.randrange(5)}", rng.choice(["gold", "tin"])
                set_tier(rng.choice(all_stubs), [user], tier)
                expected = [MEMBER, NOT_MEMBER] if tier == "gold" else [NOT_MEMBER, MEMBER]
                for _ in range(rng.randint(1, 3)):
                    stubs = rng.choice(all_stubs)
                    assert check(stubs, user) == (tier == "gold")
                    assert batch(stubs, ["u1", user, "u4", "nobody", "u2", "u3"])[:3] == [
                        [MEMBER, NOT_MEMBER],
                        expected,
                        [NOT_MEMBER, MEMBER],
                    ]
    finally:
        over.set()
        noise.join()


def test_an_edit_holds_from_its_acknowledgement_on(service: Serving) -> None:
    with connections(service, CONNECTIONS) as all_stubs:
        for tier in ("silver", "gold") * 5:
            ask_for_tier(service, tier)
            for stubs in all_stubs:
                assert check(stubs, "u1") == (tier == "gold")
                assert check(stubs, "u4", OTHERS) == (tier == "gold")


def test_a_revision_is_included_in_the_answer(service: Serving) -> None:
    update = ingest_service_pb2.UpsertUsersRequest(parent=ACCOUNT, input=INPUT)
    added = update.users.add(user_id="new")
    added.attributes["tier"].string_value = "gold"
    revision = service.ingest.UpsertUsers(update).revision
    assert check(service, "new", at_least=revision)
    wait_until_answered(service)
    writer = Calls(service)
    request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="new", at_least=revision)

    def by_a_reader() -> audience_service_pb2.CheckMembershipResponse | None:
        """The answer; None while the user is not yet in the audience that readers know."""
        before = writer.count
        answer = service.audiences.CheckMembership(request)
        assert answer.member
        return answer if writer.count == before else None

    answer = eventually(by_a_reader)
    assert answer is not None
    # Its own revision can be asked for again, also from the writer.
    assert check(service, "new", at_least=answer.revision)
    reads = audience_service_pb2.CountAudienceRequest(name=GOLD, at_least=answer.revision)
    assert service.audiences.CountAudience(reads).users == 4


def test_an_erased_user_is_in_nothing_and_an_alias_in_what_its_user_is_in(service: Serving) -> None:
    service.ingest.DeleteUsers(ingest_service_pb2.DeleteUsersRequest(parent=ACCOUNT, user_ids=["u1"]))
    service.ingest.AliasUser(
        ingest_service_pb2.AliasUserRequest(parent=ACCOUNT, from_user_id="also-u2", to_user_id="u2")
    )
    with connections(service, CONNECTIONS) as all_stubs:
        for stubs in all_stubs:
            assert [check(stubs, user) for user in ("u1", "u2", "also-u2")] == [False, True, True]
            assert [check(stubs, user, OTHERS) for user in ("u1", "u4")] == [False, True]


REFUSED = (
    audience_service_pb2.CheckMembershipRequest(audience=GOLD),
    audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="x" * 257),
    audience_service_pb2.CheckMembershipRequest(audience=f"{GOLD}-not", user_id="u1"),
    audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1", at_least="forged"),
    audience_service_pb2.BatchCheckMembershipRequest(parent=ACCOUNT, user_ids=[""], audiences=[GOLD]),
    audience_service_pb2.BatchCheckMembershipRequest(parent="x", user_ids=["u1"], audiences=[GOLD]),
    audience_service_pb2.BatchCheckMembershipRequest(
        parent=ACCOUNT, user_ids=["u"] * 10_001, audiences=[GOLD]
    ),
)


def test_what_the_writer_refuses_is_refused_in_its_words(service: Serving) -> None:
    with closing(Stubs(writer_address(service))) as direct:
        for request in REFUSED:
            name = type(request).__name__.removesuffix("Request")
            expected = refusal_of(getattr(direct.audiences, name), request)
            assert refusal_of(getattr(service.audiences, name), request) == expected, str(request)[:300]


def test_a_batch_names_unknown_audiences_and_keeps_its_order(service: Serving) -> None:
    unknown = audience_service_pb2.MEMBERSHIP_STATUS_UNKNOWN_AUDIENCE
    assert batch(service, ["u4", "u1", "u4"], [OTHERS, f"{GOLD}-not", GOLD, OTHERS]) == [
        [MEMBER, unknown, NOT_MEMBER, MEMBER],
        [NOT_MEMBER, unknown, MEMBER, NOT_MEMBER],
        [MEMBER, unknown, NOT_MEMBER, MEMBER],
    ]
    assert batch(service, ["u4", "u1"], [OTHERS, GOLD, OTHERS]) == [
        [MEMBER, NOT_MEMBER, MEMBER],
        [NOT_MEMBER, MEMBER, NOT_MEMBER],
    ]


def test_a_reader_answers_only_callers_whose_keys_permit_it(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", readers=1) as keys:
        operator = keys.operator
        audience = build(operator)
        connect(operator, audience)
        operator.accounts.CreateAccount(account_service_pb2.CreateAccountRequest(account_id="b"))
        reading = keys.with_key(ACCOUNT, "reads", "READ")
        foreign = keys.with_key("accounts/b", "reads", "READ")
        sending = keys.with_key(ACCOUNT, "sends", "INGEST")
        anyone = keys.caller("none")
        writer = Calls(keys.service)

        def is_answered() -> bool:
            before = writer.count
            assert check(reading, "u1")
            return writer.count == before

        eventually(is_answered)
        request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1")
        codes = {
            caller: refusal_of(caller.audiences.CheckMembership, request).code
            for caller in (foreign, sending, anyone)
        }
        assert codes == {
            foreign: grpc.StatusCode.NOT_FOUND,
            sending: grpc.StatusCode.PERMISSION_DENIED,
            anyone: grpc.StatusCode.UNAUTHENTICATED,
        }
        operator.accounts.DeleteApiKey(
            account_service_pb2.DeleteApiKeyRequest(name=f"{ACCOUNT}/apiKeys/reads")
        )
        assert refusal_of(reading.audiences.CheckMembership, request).code is grpc.StatusCode.UNAUTHENTICATED


def test_streams_at_the_writer_count_where_a_reader_answers(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", readers=1) as keys:
        audience = build(keys.operator)
        connect(keys.operator, audience)
        caller = keys.with_key(ACCOUNT, "k", "READ", "INGEST", in_flight_max=1)
        writer = Calls(keys.service)

        def is_answered() -> bool:
            before = writer.count
            assert check(caller, "u1")
            return writer.count == before

        eventually(is_answered)
        request = audience_service_pb2.CheckMembershipRequest(audience=GOLD, user_id="u1")
        batch_request = audience_service_pb2.BatchCheckMembershipRequest(
            parent=ACCOUNT, user_ids=["u1"], audiences=[GOLD]
        )
        stream = RunningStream(caller)
        for ask, asked in (
            (caller.audiences.CheckMembership, request),
            (caller.audiences.BatchCheckMembership, batch_request),
        ):
            refusal = refusal_of(ask, asked)
            assert (refusal.reason, refusal.metadata["limit"]) == ("RATE_LIMITED", "1")
        stream.close()
        # The stream ends a moment after its caller has heard so.
        eventually(lambda: passes(caller))
        assert is_answered()


def passes(caller: Stubs) -> bool:
    try:
        return check(caller, "u1")
    except grpc.RpcError:
        return False
