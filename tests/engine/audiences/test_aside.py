"""An account that takes long to refresh is refreshed aside, and the others do not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from engine.audiences.live.aside import ACCOUNT_S_MAX, ALONE_S_MAX, CALM_S, Aside
from engine.audiences.live.rounds import REST_S_MAX, REST_S_MIN
from engine.deadline import A_DAY_S, TimeShares, check_deadline
from engine.errors import DeadlineExceeded
from engine.resources.records import Account, Connection, Input, Journey, Milestone, Output, Workspace
from engine.resources.targets import File
from tests.engine.site import Site, did, event

COSTLY = "accounts/costly"
WAIT_S = 60.0
"""More than anything here takes, also on a busy machine."""


class Time:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# --- whose turn it is ---------------------------------------------------------------------------------------


def run(aside: Aside, time: Time, seconds: float) -> str | None:
    with aside.taken(0) as account:
        time.now += seconds
    return account


def test_accounts_take_turns_and_rest_as_long_as_they_computed() -> None:
    time, processor = Time(), Time()
    aside = Aside(time, processor)

    def run_computing(seconds: float, waiting: float = 0.0) -> str | None:
        with aside.taken(0) as account:
            time.now += waiting + seconds
            processor.now += seconds
        return account

    assert run_computing(0) is None
    aside.put("a")
    time.now += 0.001
    aside.put("b")
    aside.put("a")
    assert len(aside) == 2
    assert run_computing(0.07) == "a"
    assert run_computing(5.0) == "b"
    # `a` rested meanwhile, and `b` rests no longer than REST_S_MAX.
    assert run_computing(0.0) == "a"
    assert run_computing(0.0) is None
    time.now += REST_S_MIN
    # What it waits for others does not count.
    assert run_computing(0.0, waiting=REST_S_MAX) == "a"
    assert run_computing(0.0) == "b"
    assert run_computing(0.0) is None
    time.now += REST_S_MIN + 1e-6
    assert {run_computing(0.0), run_computing(0.0)} == {"a", "b"}


def test_an_account_that_is_refreshed_is_not_taken_by_others() -> None:
    aside = Aside(Time())
    aside.put("a")
    with aside.taken(0) as first, aside.taken(0) as second:
        assert (first, second) == ("a", None)


def test_an_account_comes_back_when_its_rounds_have_been_short_for_a_while() -> None:
    time = Time()
    aside = Aside(time)
    aside.put("a")
    long, short = ACCOUNT_S_MAX * 0.6, ACCOUNT_S_MAX * 0.4
    for _ in range(3):
        assert run(aside, time, long) == "a"
        time.now += CALM_S - 1
    assert run(aside, time, short) == "a"
    assert "a" in aside
    time.now += 1
    assert run(aside, time, short) == "a"
    assert "a" not in aside


def test_waiting_ends_when_an_account_comes_and_when_it_is_over() -> None:
    aside = Aside()
    taken: list[str | None] = []

    def wait() -> None:
        with aside.taken(WAIT_S) as account:
            taken.append(account)

    ends: list[tuple[Callable[[], None], str | None]] = [(lambda: aside.put("a"), "a"), (aside.close, None)]
    for end, expected in ends:
        waiting = threading.Thread(target=wait)
        waiting.start()
        end()
        waiting.join(WAIT_S)
        assert taken.pop() == expected


# --- shares of the time -------------------------------------------------------------------------------------


def test_time_counts_for_the_account_that_it_was_spent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Time()
    monkeypatch.setattr("engine.deadline.time.monotonic", now)
    shares = TimeShares(10)
    for account, seconds, left in (("a", 4, 10), ("b", 9, 10), ("a", 5, 6), ("b", 2, 1), ("a", 0, 1)):
        with shares.of(account) as deadline:
            assert deadline - now() == pytest.approx(left)
            now.now += seconds
    assert (shares.is_over("a"), shares.is_over("b"), shares.is_over("c")) == (False, True, False)
    with shares.of("b") as deadline, pytest.raises(DeadlineExceeded):
        check_deadline(deadline)


def test_shares_end_when_all_work_is_to_end() -> None:
    ends = False
    shares = TimeShares(is_cancelled=lambda: ends)
    assert shares.seconds_max == A_DAY_S
    with shares.of("a") as deadline:
        check_deadline(deadline)
        ends = True
        with pytest.raises(DeadlineExceeded):
            check_deadline(deadline)
    assert shares.is_over("b")


# --- rounds -------------------------------------------------------------------------------------------------


@pytest.fixture
def milestones(site: Site) -> tuple[Milestone, Milestone]:
    """Connected milestones of the costly account and of another one."""
    engine = site.engine
    engine.accounts.create_account("costly", Account(name=""))
    engine.accounts.create_workspace(COSTLY, "shop", Workspace(name=""))
    engine.accounts.create_input(f"{COSTLY}/workspaces/shop", "web", Input(name=""))
    engine.journeys.create_journey(COSTLY, "main", Journey(name=""))
    engine.connections.create_output(COSTLY, "file", Output(name="", target=File("out")))
    costly = site.add("m", did("buy"), journey=f"{COSTLY}/journeys/main")
    record = Connection(name="", audience=costly.audience, output=f"{COSTLY}/outputs/file")
    engine.connections.activate(engine.connections.create_connection(COSTLY, "sending", record).name)
    other = site.add("m", did("buy"))
    site.connect(other)
    engine.live.refresh_all()
    return costly, other


def buy(site: Site, user_id: str) -> None:
    """The user buys in both accounts."""
    site.send([(user_id, "buy")])
    web = f"{COSTLY}/workspaces/shop/inputs/web"
    site.engine.ingest.events(COSTLY, [event(user_id, "buy", input=web)])


class Slow:
    """Evaluating the costly account goes on until it is let go, or its time is over."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.ends = threading.Event()
        self.evaluated = 0

    def wait(self, check: Callable[[], None]) -> None:
        self.evaluated += 1
        self.began.set()
        while not self.ends.wait(0.005):
            check()


@contextmanager
def costly(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow, backend = Slow(), site.backend
    real = backend._evaluate  # type: ignore[attr-defined]

    def evaluate(asked: Any, found: Any, read: Any, *rest: Any) -> None:
        if asked.account == COSTLY:
            with read.released():
                slow.wait(read.check)
        real(asked, found, read, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "_evaluate", evaluate)
        yield slow


def begun_aside(site: Site, slow: Slow) -> threading.Thread:
    """A round aside, which is evaluating the costly account."""
    slow.began.clear()
    aside = threading.Thread(target=site.engine.live.refresh_aside, args=(WAIT_S,))
    aside.start()
    assert slow.began.wait(WAIT_S)
    return aside


def stored(site: Site, milestones: tuple[Milestone, Milestone]) -> list[set[str]]:
    return [site.stored(each) for each in milestones]


def test_others_are_refreshed_while_a_costly_account_is(
    site: Site, milestones: tuple[Milestone, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = site.engine.live
    with costly(site, monkeypatch) as slow:
        buy(site, "u1")
        live.refresh_timely()
        # Its time was over, so it is as it was.
        assert stored(site, milestones) == [set(), {"u1"}]
        assert live.failure(milestones[0].audience) == ""
        aside = begun_aside(site, slow)
        for number in range(2, 5):
            buy(site, f"u{number}")
            live.refresh_timely()
            assert stored(site, milestones) == [set(), {f"u{at}" for at in range(1, number + 1)}]
        assert slow.evaluated == 2
        slow.ends.set()
        aside.join(WAIT_S)
        # Users whose data came after it began may wait for the next round.
        assert "u1" in site.stored(milestones[0])
        live.refresh_aside(WAIT_S)
        assert stored(site, milestones) == [{"u1", "u2", "u3", "u4"}] * 2
    assert all(site.engine.members.check(each.audience, "u4").member for each in milestones)
    changes = site.backend.changes(milestones[0].audience, 0, 9).changes
    assert sorted((each.user_id, each.entered) for each in changes) == [
        (f"u{at}", True) for at in range(1, 5)
    ]


def test_the_deadline_of_one_scope_is_not_that_of_its_account(
    site: Site, milestones: tuple[Milestone, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a statement of a server that takes too long, while the account has time left."""
    site.engine.journeys.create_journey(COSTLY, "second", Journey(name=""))
    second = site.add("m", did("buy"), journey=f"{COSTLY}/journeys/second")
    record = Connection(name="", audience=second.audience, output=f"{COSTLY}/outputs/file")
    site.engine.connections.activate(site.engine.connections.create_connection(COSTLY, "second", record).name)
    site.engine.live.refresh_all()
    real = site.backend._evaluate  # type: ignore[attr-defined]

    def evaluate(asked: Any, *rest: Any) -> None:
        if asked.scope.endswith("/second"):
            raise DeadlineExceeded("the statement took too long")
        real(asked, *rest)

    buy(site, "u1")
    with monkeypatch.context() as patched:
        patched.setattr(site.backend, "_evaluate", evaluate)
        failures = site.engine.live.refresh_timely(A_DAY_S)
    assert list(failures) == [f"{COSTLY}/journeys/second"]
    assert (site.stored(milestones[0]), site.stored(second)) == ({"u1"}, set())
    assert len(site.engine.live._aside) == 0


def test_a_long_calculation_of_everyone_goes_aside_at_once(
    site: Site, milestones: tuple[Milestone, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    buy(site, "u1")
    live = site.engine.live
    monkeypatch.setattr(live._refresher, "_seconds_per_user", ACCOUNT_S_MAX * 2)
    site.engine.milestones.delete_milestone(milestones[0].name)
    again = site.add("m", did("buy"), journey=f"{COSTLY}/journeys/main")
    record = Connection(name="", audience=again.audience, output=f"{COSTLY}/outputs/file")
    created = site.engine.connections.create_connection(COSTLY, "again", record)
    site.engine.connections.activate(created.name)
    with costly(site, monkeypatch) as slow:
        slow.ends.set()
        live.refresh_timely()
        assert slow.evaluated == 0
        assert site.stored(milestones[1]) == {"u1"}
        live.refresh_aside(WAIT_S)
        assert slow.evaluated == 1
    assert site.stored(again) == {"u1"}


@pytest.mark.parametrize(("seconds", "goes_aside"), [(ALONE_S_MAX * 0.9, False), (ALONE_S_MAX * 1.1, True)])
def test_an_account_that_is_alone_has_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch, seconds: float, goes_aside: bool
) -> None:
    """Nobody waits for it, and what it has begun would be lost."""
    milestone = site.add("m", did("buy"))
    site.connect(milestone)
    live, now = site.engine.live, Time()
    live.refresh_all()
    site.send([("u1", "buy")])
    real = site.backend._evaluate  # type: ignore[attr-defined]

    def evaluate(asked: Any, found: Any, read: Any, *rest: Any) -> None:
        now.now += seconds
        read.check()
        real(asked, found, read, *rest)

    with monkeypatch.context() as patched:
        patched.setattr("engine.deadline.time.monotonic", now)
        patched.setattr(site.backend, "_evaluate", evaluate)
        live.refresh_timely()
    assert (len(live._aside) == 1) is goes_aside
    assert site.stored(milestone) == (set() if goes_aside else {"u1"})


def test_a_stop_ends_rounds_that_are_under_way(
    site: Site, milestones: tuple[Milestone, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = site.engine.live
    with costly(site, monkeypatch) as slow:
        buy(site, "u1")
        live.refresh_timely()
        aside = begun_aside(site, slow)
        live.stop()
        aside.join(WAIT_S)
        assert not aside.is_alive()
    assert site.stored(milestones[0]) == set()
    # All is there for the next start.
    site.engine.close()
    site.open()
    site.engine.live.refresh_all()
    assert stored(site, milestones) == [{"u1"}] * 2


def test_the_instant_of_an_earlier_round_that_ends_later_is_not_the_last(
    site: Site, milestones: tuple[Milestone, Milestone], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = site.engine.live
    with costly(site, monkeypatch) as slow:
        buy(site, "u1")
        live.refresh_timely()
        aside = begun_aside(site, slow)
        before = site.clock.now
        site.clock.now += 1_000_000
        live.refresh_timely()
        assert site.backend.instant() == site.clock.now
        slow.ends.set()
        aside.join(WAIT_S)
    assert site.backend.instant() == site.clock.now
    assert [live.reached(each.audience) for each in milestones] == [before, site.clock.now]
