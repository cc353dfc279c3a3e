"""Journeys that ask the same, or get the same answers, share what a round does; each keeps what is its own.

| shared | by |
|---|---|
| the template, and its plan as of an instant | journeys whose milestones come to the same steps |
| the answer of a plan | plans that differ in windows alone, between which nothing has happened |
| entries, exits and members afterwards | memberships with the same members and the same answers |
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.audiences.live.refreshing import HORIZONS_MICROS
from engine.backends.local.query.runs import SharedRun
from engine.criteria.model import (
    Aggregate,
    AllOf,
    Compare,
    Criterion,
    Event,
    Last,
    Not,
    UserAttribute,
)
from engine.criteria.operators import Equals
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros
from tests.engine.site import ACCOUNT, Site, did, event

USERS = [f"u{number}" for number in range(40)]
STEPS = 60


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "store")
    yield found
    found.engine.close()


def add(site: Site, number: int, criterion: Criterion) -> Milestone:
    """A journey of one audience, which is not activated."""
    site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
    return site.add("m", criterion, journey=f"{ACCOUNT}/journeys/j{number}")


def bought(*, seconds: int = 0, days: int = 2) -> Criterion:
    return Event(name="buy", window=Last(duration=days * MICROS_PER_DAY + seconds * MICROS_PER_SECOND))


CRITERIA: list[Criterion] = [
    bought(),
    bought(),
    bought(seconds=5),
    bought(seconds=3_600),
    bought(days=1),
    AllOf(criteria=(bought(), Not(criterion=did("open", days=1)))),
    AllOf(criteria=(bought(), Not(criterion=did("open", days=1)))),
    Event(name="buy", window=Last(duration=MICROS_PER_DAY), test=Compare("greater_or_equal", 2.0)),
    Event(
        name="buy",
        window=Last(duration=MICROS_PER_DAY),
        aggregate=Aggregate.SUM,
        of="price",
        test=Compare("greater_or_equal", 10.0),
    ),
    AllOf(criteria=(bought(), UserAttribute(key="plan", test=Equals("gold")))),
]


def changes_of(site: Site, milestone: Milestone) -> list[tuple[int, str, bool, Micros]]:
    """All stored changes of an audience."""
    found, after = [], 0
    while True:
        page = site.backend.changes(milestone.audience, after, 1_000)
        found += [(each.sequence, each.user_id, each.entered, each.as_of) for each in page.changes]
        if page.caught_up:
            return found
        after = found[-1][0]


class Run:
    """Random operations on journeys, some of which ask the same."""

    def __init__(self, site: Site, chosen: random.Random) -> None:
        self._site = site
        self._chosen = chosen
        self._milestones = [add(site, number, criterion) for number, criterion in enumerate(CRITERIA)]
        self._active: dict[str, Milestone] = {}

    def step(self, number: int) -> None:
        """Some operations, and two rounds: within a second of a round time alone moves no one."""
        site, chosen = self._site, self._chosen
        for _ in range(chosen.randrange(2)):
            chosen.choice([self._buy, self._buy, self._buy, self._update, self._activate, self._other])()
        steps = (0, 200_000, MICROS_PER_SECOND, 61 * MICROS_PER_SECOND, 5 * MICROS_PER_HOUR)
        site.clock.now += chosen.choice(steps)
        if number % 20 == 19:
            site.engine.close()
            site.open()
        site.engine.live.refresh_all()
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()

    def _buy(self) -> None:
        ages = (0, 0, MICROS_PER_HOUR, MICROS_PER_DAY, 2 * MICROS_PER_DAY)
        rows = [
            event(
                self._chosen.choice(USERS),
                self._chosen.choice(("buy", "buy", "open")),
                time=self._site.clock.now - self._chosen.choice(ages) + self._chosen.randrange(5_000_000),
                attributes={"price": self._chosen.randrange(8)},
            )
            for _ in range(self._chosen.randrange(1, 12))
        ]
        self._site.backend.append(ACCOUNT, rows)

    def _update(self) -> None:
        plan = self._chosen.choice(("gold", "free"))
        self._site.update(self._chosen.choice(USERS), {"plan": plan}, time=self._site.clock.now)

    def _activate(self) -> None:
        """So that some know users from before others were calculated."""
        left = [each for each in self._milestones if each.name not in self._active]
        if left:
            milestone = self._chosen.choice(left)
            self._site.connect(milestone, f"c{len(self._active)}")
            self._active[milestone.name] = milestone

    def _other(self) -> None:
        match self._chosen.randrange(2):
            case 0:
                self._site.backend.erase(ACCOUNT, [self._chosen.choice(USERS)])
            case 1:
                alias = f"a{self._chosen.randrange(1 << 30)}"
                self._site.backend.alias(ACCOUNT, alias, self._chosen.choice(USERS))
            case _:
                milestone = self._chosen.choice(self._milestones)
                edited = Milestone(name=milestone.name, audience="", criteria=self._chosen.choice(CRITERIA))
                self._site.engine.milestones.update_milestone(edited, {"criteria"})

    def check(self) -> None:
        """Each membership is what its criteria say, and what its own changes add up to."""
        for milestone in self._active.values():
            expected = self._site.members(milestone)
            assert self._site.stored(milestone) == expected, milestone.name
            membership = self._site.backend.membership(milestone.audience)
            changes = changes_of(self._site, milestone)
            assert membership is not None
            assert [sequence for sequence, *_ in changes] == list(range(1, membership.last_sequence + 1))
            assert [as_of for *_, as_of in changes] == sorted(as_of for *_, as_of in changes)
            entered = sum(entered for _, _, entered, _ in changes)
            assert (membership.entered_total, membership.size) == (entered, len(expected))
            assert membership.exited_total == len(changes) - entered
            found: set[str] = set()
            for _, user, has_entered, _ in changes:
                assert (user in found) is not has_entered
                (found.add if has_entered else found.discard)(user)
            assert found == expected, milestone.name


@pytest.mark.parametrize("_", range(2))
def test_each_journey_has_its_own_members_and_changes(site: Site, _: int) -> None:
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    run = Run(site, random.Random(seed))
    for number in range(STEPS):
        run.step(number)
        run.check()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each plan that is run by shared answers."""
    found: list[int] = []
    sets = SharedRun.sets

    def counted(self: SharedRun, indexes: Any) -> Any:
        found.append(len(indexes))
        return sets(self, indexes)

    monkeypatch.setattr(SharedRun, "sets", counted)
    return found


def prepared(site: Site, criteria: list[Criterion]) -> list[Milestone]:
    """Activated journeys that have been through a round with data."""
    milestones = [add(site, number, criterion) for number, criterion in enumerate(criteria)]
    for number, milestone in enumerate(milestones):
        site.connect(milestone, f"c{number}")
    site.engine.live.refresh_all()
    site.send([("first", "buy")])
    site.engine.live.refresh_all()
    site.clock.now += MICROS_PER_SECOND
    site.engine.live.refresh_all()
    return milestones


def published(site: Site, milestone: Milestone) -> Any:
    return site.backend.published(ACCOUNT).stored[milestone.audience]  # type: ignore[attr-defined]


def test_journeys_that_ask_the_same_are_evaluated_once(site: Site, runs: list[int]) -> None:
    sum_of = Event(
        name="buy",
        window=Last(duration=MICROS_PER_DAY),
        aggregate=Aggregate.SUM,
        of="price",
        test=Compare("less_than", 10.0),
    )
    milestones = prepared(site, [sum_of] * 5)
    runs.clear()
    site.send([("second", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    assert runs == [1]
    assert {len(published(site, milestone).members) for milestone in milestones} == {16}
    assert len({id(published(site, milestone).members) for milestone in milestones}) == 1
    for milestone in milestones:
        assert site.stored(milestone) == site.members(milestone) == {"first", "second"}


def test_windows_are_one_question_while_nothing_has_happened_between_their_ends(
    site: Site, runs: list[int]
) -> None:
    # Of two to four days: their rows are found at once.
    milestones = prepared(site, [bought(seconds=6 * 3_600 * number) for number in range(1, 7)])
    runs.clear()
    site.send([("second", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    assert runs == [1]
    # An event that the shortest two windows have left, and no other is about to leave.
    runs.clear()
    site.send([("third", "buy")], time=site.clock.now - 2 * MICROS_PER_DAY - 15 * MICROS_PER_HOUR)
    site.engine.live.refresh_all()
    assert runs == [1, 1]
    assert ["third" in site.stored(milestone) for milestone in milestones] == [False] * 2 + [True] * 4


def test_a_journey_that_was_activated_later_has_its_own_sequences(site: Site) -> None:
    early = prepared(site, [bought()])[0]
    late = add(site, 7, bought())
    site.connect(late, "late")
    site.engine.live.refresh_all()
    site.send([("second", "buy"), ("third", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    assert published(site, early).members is published(site, late).members
    first, second = (changes_of(site, milestone) for milestone in (early, late))
    assert (
        [change[:3] for change in first[:1]] == [change[:3] for change in second[:1]] == [(1, "first", True)]
    )
    # They gained the first user at different instants, and the others at one.
    assert first[0][3] < second[0][3]
    assert first[1:] == second[1:]
    record = Milestone(name=early.name, audience="", criteria=did("open", days=1))
    site.engine.milestones.update_milestone(record, {"criteria"})
    site.engine.live.refresh_all()
    site.send([("fourth", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    assert (site.stored(early), site.stored(late)) == (set(), {"first", "second", "third", "fourth"})
    assert len(changes_of(site, early)) == 6
    assert len(changes_of(site, late)) == 4


def test_users_with_data_during_a_round_are_shared_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    milestones = prepared(site, [bought(seconds=number) for number in range(3)])
    site.send([("first", "buy"), ("second", "buy")], time=site.clock.now)
    backend: Any = site.backend
    store = backend._store_round

    def more(*arguments: Any) -> None:
        monkeypatch.undo()
        # The second user is evaluated again, the third and the fourth for the first time.
        site.send([("second", "buy"), ("third", "buy"), ("fourth", "buy")], time=site.clock.now)
        store(*arguments)

    monkeypatch.setattr(backend, "_store_round", more)
    site.engine.live.refresh_all()
    assert backend.pending(milestones[0].name.partition("/milestones/")[0]) == 0
    for milestone in milestones:
        assert site.stored(milestone) == {"first", "second", "third", "fourth"}
        assert published(site, milestone).members is published(site, milestones[0]).members
        assert changes_of(site, milestone)[1:] == changes_of(site, milestones[0])[1:]
    site.send([("fifth", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    assert len({id(published(site, milestone).members) for milestone in milestones}) == 1


def test_an_erased_user_leaves_all_that_share_their_members(site: Site) -> None:
    milestones = prepared(site, [bought()] * 3)
    site.send([("second", "buy")], time=site.clock.now)
    site.engine.live.refresh_all()
    site.backend.erase(ACCOUNT, ["first"])
    site.engine.live.refresh_all()
    for milestone in milestones:
        assert site.stored(milestone) == {"second"}
        assert [change[1:3] for change in changes_of(site, milestone)][-1] == ("first", False)
    assert len({id(published(site, milestone).members) for milestone in milestones}) == 1


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def called(account: str, scope: str, level: int, *arguments: Any) -> Any:
        calls.append(level)
        return function(account, scope, level, *arguments)

    return called


def test_horizons_without_anyone_are_not_renewed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    milestone = prepared(site, [bought()])[0]
    calls: list[int] = []
    monkeypatch.setattr(site.backend, "look_ahead", counted(site.backend.look_ahead, calls))
    for _ in range(120):
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()
    assert calls == []
    # Someone whom the window leaves in ten seconds is looked at again each second from then on.
    leaves = site.clock.now + 10 * MICROS_PER_SECOND
    site.send([("second", "buy")], time=leaves - 2 * MICROS_PER_DAY)
    for _ in range(9):
        site.engine.live.refresh_all()
        site.clock.now += MICROS_PER_SECOND
    assert site.stored(milestone) == {"first", "second"}
    assert set(calls) <= set(range(1, len(HORIZONS_MICROS)))
    assert calls
    for _ in range(2):
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()
    assert site.stored(milestone) == site.members(milestone) == {"first"}
