"""Local checks: every answer is from a state that the service had, and says how far behind it is."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from milepost import Client, _retrying, errors, make_user_update
from milepost.client.local import LocalChecks
from milepost.criteria import attribute
from milepost.outputs import WatchOutput
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import (
    ProgressMark,
    WatchMembershipRequest,
    WatchMembershipResponse,
)
from tests.clients.bridge import async_client
from tests.clients.fake import Fake
from tests.clients.fake import serving as fake_serving
from tests.clients.methods.conftest import Kind
from tests.clients.proxy import Proxy, proxied
from tests.clients.test_client import DOWN, LIMITED, begin, changes, end, mark, of_several, played, snapshot
from tests.harness import Serving, eventually, serving

USERS = [f"u{number}" for number in range(40)]
GOLD, RICH = "j/gold", "j/rich"
TARGETS = (GOLD, RICH)
ROUNDS = 25
OFTEN = timedelta(seconds=0.1)
NEVER = timedelta(hours=1)


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retrying, "BACKOFF_LAST_SECONDS", 0.2)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as made, Client(made.address, account="acme") as shop:
        shop.ensure_account()
        shop.ensure_input("shop", "web")
        shop.ensure_journey("j")
        shop.ensure_milestone("j", "gold", criteria=attribute("tier").equals("gold"))
        shop.ensure_milestone("j", "rich", criteria=attribute("tier").equals("rich"))
        output = shop.ensure_output("consumers", WatchOutput())
        for target in TARGETS:
            shop.ensure_connection(connection_of(target), target=target, output=output.name)
            shop.activate_connection(connection_of(target))
        yield made


@pytest.fixture
def shop(service: Serving) -> Iterator[Client]:
    with Client(service.address, account="acme") as made:
        yield made


@contextmanager
def followed(
    kind: Kind, service: Serving, targets: Sequence[str], **options: Any
) -> Iterator[tuple[Proxy, Client, LocalChecks]]:
    """Local checks whose connection goes through a proxy."""
    with (
        proxied(service.address) as proxy,
        kind(proxy.address, account="acme") as client,
        client.local(targets, progress_interval=OFTEN, **options) as local,
    ):
        yield proxy, client, local


def connection_of(target: str) -> str:
    return f"c-{target.partition('/')[2]}"


def move(shop: Client, users: Sequence[str], tier: str) -> None:
    updates = [make_user_update(user, {"tier": tier}) for user in users]
    shop.upsert_users(updates, input="shop/web")


def log_of(shop: Client, target: str) -> list[MembershipChange]:
    """Every change of an audience so far."""
    watch = shop.watch(target, cursor=0, progress_interval=OFTEN)
    changes: list[MembershipChange] = []
    for update in watch:
        if isinstance(update, MembershipChange):
            changes.append(update)
        elif isinstance(update, ProgressMark):
            break
    watch.close()
    return changes


def states_of(log: Sequence[MembershipChange]) -> dict[int, set[str]]:
    """The members after each instant of the log, by the cursor of its last change."""
    members: set[str] = set()
    states: dict[int, set[str]] = {0: set()}
    for change, following in zip(log, [*log[1:], None], strict=True):
        (members.add if change.entered else members.discard)(change.user_id)
        if following is None or following.as_of != change.as_of:
            states[change.sequence] = set(members)
    return states


def test_every_answer_is_of_a_state_that_the_service_had(kind: Kind, service: Serving, shop: Client) -> None:
    """Users move at random while the connection is cut at random, and a thread asks all the while."""
    drawn = random.Random(11)
    seen: dict[str, dict[int, set[str]]] = {target: {} for target in TARGETS}
    loose: dict[str, list[tuple[int, str, bool, int]]] = {target: [] for target in TARGETS}
    stopped = threading.Event()
    with followed(kind, service, TARGETS) as (proxy, _client, local):

        def ask() -> None:
            own = random.Random(5)
            while not stopped.is_set():
                user, target = own.choice(USERS), own.choice(TARGETS)
                before = local.answer(user, target).cursor
                member = local.check(user, target)
                loose[target].append((before, user, member, local.answer(user, target).cursor))
                stopped.wait(0.002)

        asking = threading.Thread(target=ask)
        asking.start()
        last: dict[str, datetime] = {}
        for number in range(ROUNDS):
            move(shop, drawn.sample(USERS, 6), drawn.choice(["gold", "rich", "none"]))
            if number % 6 == 5:
                proxy.cut()
            if number % 3 == 0:
                # Up to date before it goes on; in the other rounds it runs behind.
                eventually(lambda: local.check_many(USERS, TARGETS) == shop.check_many(USERS, TARGETS))
            for target in TARGETS:
                answers = {user: local.answer(user, target) for user in USERS}
                cursors = {answer.cursor for answer in answers.values()}
                assert answers[USERS[0]].as_of >= last.get(target, answers[USERS[0]].as_of)
                last[target] = answers[USERS[-1]].as_of
                if len(cursors) == 1:
                    members = {user for user, answer in answers.items() if answer.member}
                    assert seen[target].setdefault(cursors.pop(), members) == members
        stopped.set()
        asking.join()
    for target in TARGETS:
        states = states_of(log_of(shop, target))
        assert len(seen[target]) > 3
        assert {cursor: states.get(cursor) for cursor in seen[target]} == seen[target]
        for first, user, member, second in loose[target]:
            between = [states[cursor] for cursor in states if first <= cursor <= second]
            assert member in {user in state for state in between}


def test_answers_say_how_far_they_are_behind(kind: Kind, service: Serving, shop: Client) -> None:
    move(shop, ["ann", "bob"], "gold")
    begun = datetime.now(UTC)
    with followed(kind, service, [GOLD]) as (proxy, client, local):
        eventually(lambda: local.check("ann", GOLD))
        full = client.target_name(GOLD)
        assert local.check("ann", full)
        assert not local.check("cat", GOLD)
        assert local.check_many(["ann", "cat"], [GOLD]) == {"ann": {full}, "cat": set()}
        eventually(lambda: local.as_of is not None and local.as_of > begun)
        status = local.status()[full]
        assert (status.users, status.error) == (2, None)
        assert status.staleness is not None
        assert status.epoch
        # Out of reach: answers go on, and it shows.
        proxy.close()
        eventually(lambda: local.staleness is not None and local.staleness > timedelta(seconds=1))
        eventually(lambda: isinstance(local.status()[full].error, errors.Unavailable))
        assert local.check("ann", GOLD)
        with pytest.raises(ValueError, match="'j/rich' is not followed"):
            local.check("ann", RICH)


def test_answers_that_are_too_old_are_refused_and_can_be_asked_for(
    kind: Kind, service: Serving, shop: Client
) -> None:
    move(shop, ["ann"], "gold")
    old = timedelta(seconds=0.8)
    with followed(kind, service, [GOLD], max_staleness=old) as (proxy, client, local):
        eventually(lambda: answered(local, "ann"))
        proxy.cut()
        proxy.target = "127.0.0.1:1"
        eventually(lambda: answered(local, "ann") is None)
        for refused in (local.check, local.answer):
            with pytest.raises(errors.TooStale, match=r"behind; answers may be 0\.8 s old") as raised:
                refused("ann", GOLD)
            assert raised.value.metadata == {"resource": client.target_name(GOLD)}
        with pytest.raises(errors.TooStale):
            local.check_many(["ann"], [GOLD])
        proxy.target = service.address
        # A call answers where memory may not.
        assert local.check_or_call("ann", GOLD)
        eventually(lambda: answered(local, "ann"))
    with kind("127.0.0.1:1", account="acme") as client:
        with pytest.raises(ValueError, match="more than the progress interval"):
            client.local([GOLD], max_staleness=OFTEN)
        with pytest.raises(ValueError, match="at least one audience"):
            client.local([])


def answered(local: Any, user_id: str) -> bool | None:
    """The answer; None when it is refused for its age."""
    try:
        return bool(local.check(user_id, GOLD))
    except errors.TooStale:
        return None


def test_an_audience_that_is_calculated_anew_is_taken_anew(
    kind: Kind, service: Serving, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the follower is away all leave and others enter, with more changes than its cursor counts."""
    for package in ("client", "aio"):
        monkeypatch.setattr(f"milepost.{package}.local.REPEAT_SECONDS", 0.1)
    move(shop, ["ann", "bob"], "gold")
    with followed(kind, service, [GOLD]) as (proxy, client, local):
        eventually(lambda: local.check("ann", GOLD))
        full = client.target_name(GOLD)
        epoch = local.status()[full].epoch
        cut_off(proxy)
        shop.deactivate_connection(connection_of(GOLD))
        move(shop, ["ann", "bob"], "none")
        move(shop, ["cat", "dan", "eve"], "gold")
        shop.activate_connection(connection_of(GOLD))
        assert local.check("ann", GOLD)
        proxy.target = service.address
        eventually(lambda: local.check("cat", GOLD))
        assert local.check_many(["ann", "bob", "cat", "dan", "eve"], [GOLD]) == {
            "ann": set(),
            "bob": set(),
            "cat": {full},
            "dan": {full},
            "eve": {full},
        }
        assert local.status()[full].epoch not in ("", epoch)
        # Deactivated, there is nothing to follow: no answer rather than an old one.
        shop.deactivate_connection(connection_of(GOLD))
        eventually(lambda: isinstance(local.status()[full].error, errors.FailedPrecondition))
        with pytest.raises(errors.FailedPrecondition):
            local.check("cat", GOLD)
        assert local.check_or_call("cat", GOLD)
        shop.activate_connection(connection_of(GOLD))
        eventually(lambda: local.status()[full].error is None)
        assert local.check("cat", GOLD)


def test_a_limit_that_says_when_to_try_again_is_waited_for(kind: Kind) -> None:
    """To the follower it is like a service out of reach: the state stays in use."""
    free, release = threading.Event(), threading.Event()
    streams: Iterator[list[Any]] = iter([[LIMITED], [begin(), snapshot("ann"), end(1), mark(1), LIMITED]])

    def watch(request: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        name = request.audiences[0]
        if answers := next(streams, None):
            yield from (of_several(answer, name, position="1") for answer in played(answers))
        elif not free.is_set():
            raise LIMITED
        else:
            assert request.position == "1"
            yield from (of_several(answer, name) for answer in (changes(2), mark(2)))
            release.wait(30)

    fake = Fake({"WatchMembership": watch})
    with (
        fake_serving(fake) as target,
        kind(target, account="acme") as client,
        client.local(["x"]) as local,
    ):
        eventually(lambda: len(fake.requests) > 4)
        error = local.status()[client.target_name("x")].error
        assert isinstance(error, errors.ResourceExhausted)
        assert local.check("ann", "x")
        free.set()
        eventually(lambda: local.check("u2", "x"))
        assert local.status()[client.target_name("x")].error is None
        release.set()


def test_before_it_is_entered_nothing_is_followed(kind: Kind) -> None:
    with kind("127.0.0.1:1", account="acme") as client:
        for max_staleness in (None, timedelta(minutes=1)):
            local = client.local(["x"], max_staleness=max_staleness)
            with pytest.raises(errors.TooStale, match=r"audiences/x is not followed yet$"):
                local.check("ann", "x")
            assert (local.as_of, local.staleness) == (None, None)


def test_nothing_to_follow_is_the_error_of_the_last_attempt(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a watch: after ten attempts, though more time is left."""
    monkeypatch.setattr(_retrying, "BACKOFF_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(_retrying, "BACKOFF_LAST_SECONDS", 0.01)
    nobody = kind("127.0.0.1:1", account="acme")
    with nobody as client, pytest.raises(errors.Unavailable, match="failed to connect"), client.local(["x"]):
        raise AssertionError("entered")

    def away(_: WatchMembershipRequest) -> Iterator[WatchMembershipResponse]:
        return played([DOWN])

    fake = Fake({"WatchMembership": away})
    with (
        fake_serving(fake) as target,
        kind(target, account="acme") as client,
        pytest.raises(errors.Unavailable, match="stopping"),
        client.local(["x"]),
    ):
        raise AssertionError("entered")
    assert len(fake.requests) >= 10


def test_an_open_watch_says_so_before_there_is_anything_to_say(
    kind: Kind, service: Serving, shop: Client
) -> None:
    watch = shop.watch(GOLD, progress_interval=OFTEN)
    next(update for update in watch if isinstance(update, ProgressMark))
    watch.close()
    assert watch.cursor is not None
    request = WatchMembershipRequest(audience=watch.audience, cursor=watch.cursor, epoch=watch.epoch)
    request.progress_interval.FromTimedelta(NEVER)
    with kind(service.address, account="acme") as client:
        silent: Any = client.audiences.WatchMembership(request)
        assert silent.was_opened()
        silent.cancel()
        request.audience = "accounts/acme/audiences/none"
        refused: Any = client.audiences.WatchMembership(request)
        with pytest.raises(errors.NotFound):
            next(iter(refused))
        assert not refused.was_opened()


def cut_off(proxy: Proxy) -> None:
    proxy.target = "127.0.0.1:1"
    proxy.cut()


def test_an_expired_cursor_leads_to_a_snapshot(kind: Kind, service: Serving, shop: Client) -> None:
    move(shop, ["ann", "bob"], "gold")
    audience = shop.audience_name(GOLD)
    with followed(kind, service, [GOLD]) as (proxy, _client, local):
        eventually(lambda: local.check("bob", GOLD))
        cut_off(proxy)
        move(shop, ["ann"], "none")
        move(shop, ["cat"], "gold")
        backend: Any = service.application.engine.backend
        eventually(lambda: backend.membership(audience).last_sequence == 4)
        backend.trim_changes(audience, 4)
        proxy.target = service.address
        eventually(lambda: local.check("cat", GOLD))
        assert (local.check("ann", GOLD), local.check("bob", GOLD)) == (False, True)


def test_what_cannot_be_followed_is_an_error_at_once(
    kind: Kind, service: Serving, shop: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.deactivate_connection(connection_of(GOLD))
    with kind(service.address, account="acme") as client:
        for targets, error in (([RICH, GOLD], errors.FailedPrecondition), (["j/none"], errors.NotFound)):
            with pytest.raises(error), client.local(targets):
                raise AssertionError("entered")
    away = kind("127.0.0.1:1", account="acme")
    with away as client, pytest.raises(errors.DeadlineExceeded, match="not followed after"):
        client.local([RICH], ready_timeout=0.3).__enter__()


def test_answers_end_with_their_client(kind: Kind, service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("client", "aio"):
        monkeypatch.setattr(f"milepost.{package}.local.REPEAT_SECONDS", 0.05)
    with kind(service.address, account="acme") as client, client.local([GOLD]) as local:
        assert not local.check("ann", GOLD)
        client.close()
        eventually(lambda: isinstance(local.status()[client.target_name(GOLD)].error, errors.Cancelled))
        with pytest.raises(errors.Cancelled):
            local.check("ann", GOLD)


def test_closing_ends_every_watch(kind: Kind, service: Serving) -> None:
    with kind(service.address, account="acme") as client:
        with client.local(TARGETS) as local:
            assert not local.check("ann", GOLD)
            # One stream for both.
            assert service.application.in_flight == 1
        eventually(lambda: service.application.in_flight == 0)
        # The last state is there still, and says its age.
        assert not local.check("ann", GOLD)
        assert local.staleness is not None
