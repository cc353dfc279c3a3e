"""A round over all journeys is one instant and one transaction, which others need not wait for."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from engine.audiences.model import MembershipStatus
from engine.backends.base import UserRecord
from engine.backends.local.membership.store import Memberships, Round
from engine.backends.local.roles.memberships import StoredMemberships
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.transactions import WriteTransaction
from engine.criteria.model import AllOf, Audience, Equals, Not, UserAttribute
from engine.errors import DataLoss, LimitExceeded
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND
from tests.engine.audiences.test_fresh_checks import Crowd, switching_often
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did, event, statuses_of

DAY = MICROS_PER_DAY
JOURNEYS = 20
WAIT_S = 60.0
"""More than anything here takes, also on a busy machine."""


def journey(number: int) -> str:
    return f"{ACCOUNT}/journeys/j{number}"


def add(site: Site, number: int, criteria: Any, milestone_id: str = "m") -> Milestone:
    """A journey of one connected milestone."""
    site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
    milestone = site.add(milestone_id, criteria, journey=journey(number))
    site.connect(milestone, f"c{number}")
    return milestone


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Counts transactions that write to a store since the last call."""
    count = 0
    real = Environment.writing

    def writing(self: Environment) -> AbstractContextManager[WriteTransaction]:
        nonlocal count
        count += 1
        return real(self)

    monkeypatch.setattr(Environment, "writing", writing)

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    return since


def test_a_round_is_one_transaction_and_none_when_nothing_changes(
    site: Site, commits: Callable[[], int]
) -> None:
    users = [f"u{number}" for number in range(5)]
    site.send([(user, "visit") for user in users])
    milestones = [add(site, number, did("buy", days=30 + number)) for number in range(JOURNEYS)]
    site.engine.live.refresh_all()
    commits()
    # 1. An event that all read: one transaction changes all of them.
    site.send([("u0", "buy")])
    commits()
    site.engine.live.refresh_all()
    assert commits() == 1
    assert [site.backend.membership(m.audience).size for m in milestones] == [1] * JOURNEYS  # type: ignore[union-attr]
    # 2. Nothing new, an event that none reads, one that changes no membership, and a tick.
    for name in ("", "visit", "buy"):
        if name:
            site.send([("u0", name)])
        commits()
        site.engine.live.refresh_all()
        assert commits() == 0, name
    site.clock.now += MICROS_PER_SECOND
    site.engine.live.refresh_all()
    assert commits() == 0
    # 3. Time moves someone in one of them.
    site.clock.now = NOW + 30 * DAY
    site.engine.live.refresh_all()
    commits()
    site.clock.now += DAY
    site.engine.live.refresh_all()
    assert [m.size for each in milestones if (m := site.backend.membership(each.audience))] == [
        int(number >= 2) for number in range(JOURNEYS)
    ]


def test_writes_go_on_while_a_round_is_stored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """1. While a round is written, users change and one of its members is erased. 2. Neither waits for the
    round, and both are in the next state.
    """
    site.send([("u1", "buy"), ("u2", "buy"), ("u3", "visit")])
    milestone = add(site, 0, did("buy"))
    site.engine.live.refresh_all()
    site.send([("u4", "buy")])
    real = Memberships.write_round
    happened: list[int] = []
    # An erasure ends with a checkpoint, which waits for the round.
    eraser = threading.Thread(target=lambda: site.engine.ingest.erase(ACCOUNT, ["u1"]))

    def meanwhile() -> None:
        site.send([("u3", "buy")])
        happened.append(site.backend.pending(journey(0)))
        eraser.start()
        deadline = time.monotonic() + WAIT_S
        while site.backend.profile(ACCOUNT, "u1") is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    def write_round(self: Memberships, round_: Round) -> None:
        if not happened:
            other = threading.Thread(target=meanwhile)
            other.start()
            other.join(WAIT_S)
            assert not other.is_alive()
            assert site.backend.profile(ACCOUNT, "u1") is None
        real(self, round_)

    monkeypatch.setattr(Memberships, "write_round", write_round)
    site.engine.live.refresh_all()
    eraser.join(WAIT_S)
    # u4, whom the round has looked at, counts as dirty until it is published.
    assert happened == [2]
    assert site.backend.pending(journey(0)) == 1
    assert site.stored(milestone) == {"u2", "u4"}
    assert site.engine.members.check(milestone.audience, "u3").member
    site.engine.live.refresh_all()
    assert site.stored(milestone) == {"u2", "u3", "u4"}
    page = site.backend.changes(milestone.audience, 0, 100).changes
    assert sorted((c.user_id, c.entered) for c in page[:2]) == [("u1", True), ("u2", True)]
    assert [(c.user_id, c.entered) for c in page[2:]] == [("u4", True), ("u1", False), ("u3", True)]
    assert [c.as_of for c in page] == sorted(c.as_of for c in page)


@pytest.mark.parametrize(
    ("amid", "members", "pending"),
    [(["v", "w"], {"before"}, 2), (["before"], {"before"}, 0), (["v", "before"], {"before", "v"}, 0)],
)
def test_a_batch_that_comes_amid_a_round_is_in_it_as_a_whole_or_not_at_all(
    site: Site, monkeypatch: pytest.MonkeyPatch, amid: list[str], members: set[str], pending: int
) -> None:
    """A batch comes once all journeys were evaluated. Its users wait for the next round, unless one of them
    was looked at in this one: then the state is that after the batch.
    """
    milestones = [add(site, number, did("buy", days=30 + number)) for number in range(2)]
    site.engine.live.refresh_all()
    before = site.send([("before", "buy")]).revision
    real = StoredMemberships._store_round
    sent: list[int] = []

    def store_round(self: StoredMemberships[Any], *arguments: Any) -> None:
        if not sent:
            sent.append(site.send([(user, "buy") for user in amid]).revision)
        real(self, *arguments)

    monkeypatch.setattr(StoredMemberships, "_store_round", store_round)
    site.engine.live.refresh_all()
    for milestone in milestones:
        assert site.stored(milestone) == members
        assert site.backend.pending(milestone.name.rpartition("/milestones/")[0]) == pending
        found = site.backend.membership(milestone.audience)
        assert found is not None
        assert found.revision == (before if pending else sent[0])
        # Checks do not wait for the next round.
        assert all(site.engine.members.check(milestone.audience, user).member for user in amid)
    site.engine.live.refresh_all()
    for milestone in milestones:
        assert site.stored(milestone) == {"before", *amid}
        assert site.backend.pending(milestone.name.rpartition("/milestones/")[0]) == 0


def test_a_round_that_cannot_be_stored_leaves_everything_for_the_next(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    milestones = [add(site, number, did("buy")) for number in range(3)]
    site.engine.live.refresh_all()
    site.send([("u1", "buy")])

    def full(self: Memberships, round_: Round) -> None:
        raise LimitExceeded("the store is full", reason="STORE_FULL")

    with monkeypatch.context() as patched:
        patched.setattr(Memberships, "write_round", full)
        with pytest.raises(LimitExceeded):
            site.engine.live.refresh_all()
    assert [site.backend.pending(journey(number)) for number in range(3)] == [1, 1, 1]
    assert [site.stored(each) for each in milestones] == [set()] * 3
    assert all(site.engine.members.check(each.audience, "u1").member for each in milestones)
    site.engine.live.refresh_all()
    assert [site.stored(each) for each in milestones] == [{"u1"}] * 3


def test_a_journey_that_fails_is_left_out_of_the_transaction(
    site: Site, monkeypatch: pytest.MonkeyPatch, commits: Callable[[], int]
) -> None:
    milestones = [add(site, number, did("buy")) for number in range(3)]
    site.engine.live.refresh_all()
    site.send([("u1", "buy")])
    real = site.backend._evaluate  # type: ignore[attr-defined]

    def failing(asked: Any, *rest: Any) -> None:
        if asked.scope == journey(1):
            raise DataLoss("a value is corrupt")
        real(asked, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(site.backend, "_evaluate", failing)
        commits()
        with pytest.raises(DataLoss):
            site.engine.live.refresh_all()
    assert commits() == 1
    assert [site.stored(each) for each in milestones] == [{"u1"}, set(), {"u1"}]
    site.engine.live.refresh_all()
    assert [site.stored(each) for each in milestones] == [{"u1"}] * 3


def test_audiences_with_numbers_of_one_round_are_kept_apart(site: Site) -> None:
    """Several journeys whose audiences are stored for the first time by one transaction."""
    site.send([("u1", "a"), ("u2", "b"), ("u3", "c")])
    names = ("a", "b", "c")
    asked = []
    for number, name in enumerate(names):
        milestone = add(site, number, did(name))
        live = site.engine.live
        definition = live._definitions.current(
            journey(number), live._states.of(journey(number)), live._definitions.version()
        )
        assert definition is not None
        due = live._refresher.due(journey(number), live._states.of(journey(number)), definition, NOW)
        assert due is not None
        assert due.refresh is not None
        asked.append((milestone, due.refresh))
    outcome = site.backend.refresh_scopes(NOW, [refresh for _, refresh in asked])
    assert [sizes[0].size for sizes in outcome if isinstance(sizes, tuple)] == [1, 1, 1]
    assert [site.stored(milestone) for milestone, _ in asked] == [{"u1"}, {"u2"}, {"u3"}]


def test_journeys_come_after_those_whose_audiences_they_name(site: Site) -> None:
    """j0 names an audience of j1, which names one of j2; j3 and j4 name each other."""
    last = add(site, 2, did("a"))
    middle = add(site, 1, Audience(name=last.audience))
    add(site, 0, Audience(name=middle.audience))
    one = add(site, 3, did("a"), "one")
    two = add(site, 4, Audience(name=one.audience), "two")
    site.add("three", Audience(name=two.audience), one.name, journey=journey(3))
    site.engine.live.refresh_all()
    order = site.engine.live._in_order([journey(number) for number in range(5)])
    assert [name for name in order if name in map(journey, range(3))] == [journey(n) for n in (2, 1, 0)]
    assert sorted(order) == [journey(number) for number in range(5)]


def test_one_answer_over_several_journeys_never_contradicts_itself(site: Site) -> None:
    """A and "in A" of another journey, and "not in A", while data and time toggle users and rounds run."""
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    gold = UserAttribute(key="tier", test=Equals("gold"))
    first = add(site, 0, AllOf(criteria=(gold, did("buy", days=1))))
    inside = add(site, 1, Audience(name=first.audience))
    outside = add(site, 2, Not(criterion=Audience(name=inside.audience)))
    users = [f"u{number}" for number in range(40)]
    # Windows of some users end with each step of the clock.
    site.backend.append(
        ACCOUNT, [event(user, "buy", time=NOW - DAY + (at + 1) * 500_000) for at, user in enumerate(users)]
    )
    site.backend.append(ACCOUNT, [UserRecord(user, WEB, NOW, {"tier": "gold"}) for user in users])
    site.engine.live.refresh_all()
    names = [each.audience for each in (first, inside, outside)]
    looks = itertools.count()

    def toggle() -> None:
        for step in range(1, 120):
            some = chosen.sample(users, 3)
            tier = chosen.choice(("gold", "tin"))
            site.backend.append(ACCOUNT, [UserRecord(user, WEB, NOW + step, {"tier": tier}) for user in some])
            if step % 3 == 0:
                site.clock.now += MICROS_PER_SECOND
                more = chosen.choice(users)
                site.backend.append(ACCOUNT, [event(more, "buy", time=site.clock.now)])

    def look() -> None:
        answer = site.engine.members.batch_check(ACCOUNT, users, names)
        for user, (in_first, in_inside, in_outside) in statuses_of(answer):
            assert in_first is in_inside, user
            assert (in_outside is MembershipStatus.MEMBER) is not (in_first is MembershipStatus.MEMBER), user
        next(looks)

    crowd = Crowd()
    with switching_often():
        crowd.run([toggle], [site.engine.live.refresh_all, look, look])
    for error in crowd.errors:
        raise error
    assert next(looks) > 1
    site.engine.live.refresh_all()
    look()
    assert site.stored(first) == site.stored(inside) == site.members(first)


def test_time_of_journeys_with_users_to_move_is_one_instant(site: Site) -> None:
    """Two journeys over the same window, one of them refreshed by data: an answer holds for one instant."""
    site.send([("u1", "buy")], time=NOW - DAY + 1_500_000)
    first = add(site, 0, did("buy", days=1))
    second = add(site, 1, AllOf(criteria=(Audience(name=first.audience), Not(criterion=did("stop")))))
    site.engine.live.refresh_all()
    for step in range(5):
        site.clock.now += 500_000
        site.send([("u2", "stop")])
        site.engine.live.refresh_all()
        answer = site.engine.members.batch_check(ACCOUNT, ["u1"], [first.audience, second.audience])
        ((_, statuses),) = statuses_of(answer)
        assert len(set(statuses)) == 1, step
        member = answer.as_of < NOW + 1_500_000
        assert (statuses[0] is MembershipStatus.MEMBER) is member
        for each in (first, second):
            [page] = site.engine.members.export(each.name, as_of=answer.as_of)
            assert ("u1" in page.user_ids) is member, step


def test_upkeep_of_many_audiences_is_one_transaction(site: Site, commits: Callable[[], int]) -> None:
    """1. Histories of audiences that are calculated together, and marks in their change logs. 2. Marks again,
    an hour later.
    """
    for number in range(JOURNEYS):
        add(site, number, did("buy", days=30 + number))
    commits()
    site.engine.live.refresh_all()
    # Each is calculated by a transaction of its own.
    assert commits() == JOURNEYS + 2
    site.engine.live.refresh_all()
    assert commits() == 0
    site.clock.now += MICROS_PER_HOUR
    site.engine.live.refresh_all()
    # Marks, and the instant.
    assert commits() == 2
