"""Scopes that read the same share who is dirty and who is late, and each has its own all the same.

Random operations on a few scopes, beside a model in which no scope shares anything.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from pyroaring import BitMap

from engine.backends.local.account.readers import NO_DATA, DataTimes, ReadBy
from engine.backends.local.membership.dirty_users import DirtyUsers, Flight
from engine.plan.reads import Reads

ACCOUNT = "accounts/a"
GROUPS = 2
USERS = 12
STEPS = 400
READS = {"buys": Reads(inputs=frozenset("b")), "visits": Reads(inputs=frozenset("v")), "": None}
"""By the beginning of the names of scopes: what they read."""
SCOPES = [f"{kind}-{number}" for kind in READS for number in range(3)]

User = tuple[int, int]
"""Group and dense id."""


@dataclass
class Scope:
    """A scope that shares nothing."""

    dirty: set[User] = field(default_factory=set)
    times: DataTimes = NO_DATA
    flight: Flight | None = None
    begun_times: DataTimes = NO_DATA
    late: set[User] = field(default_factory=set)
    late_times: DataTimes = NO_DATA
    has_taken: bool = False
    is_settled: bool = False


class Beside:
    """The dirty users under test, and the model."""

    def __init__(self, source: random.Random) -> None:
        self._source = source
        self._real = DirtyUsers(GROUPS)
        self._scopes = {name: Scope() for name in SCOPES}
        for name in SCOPES:
            self._real.track(ACCOUNT, name, whole=False, reads=READS[name.partition("-")[0]])

    def step(self) -> None:
        operations = [self._mark, self._mark, self._begin, self._begin_all, self._take, self._settle]
        self._source.choice([*operations, self._finish, self._finish_all, self._abandon, self._remove])()

    def _users(self) -> set[User]:
        count = self._source.choice((1, 1, 2, 5))
        return {(self._source.randrange(GROUPS), self._source.randrange(USERS)) for _ in range(count)}

    def _one(self, *, in_flight: bool) -> str | None:
        """A scope that is being refreshed, or not."""
        found = [name for name, scope in self._scopes.items() if (scope.flight is not None) is in_flight]
        return self._source.choice(found) if found else None

    def _mark(self) -> None:
        kind = self._source.choice([*READS])
        names = [name for name in SCOPES if name.startswith((f"{kind}-", "-"))]
        users, at = self._users(), self._source.randrange(100)
        times = DataTimes(at, at)
        self._real.mark([ReadBy(frozenset(names), by_group(users))], times)
        for scope in map(self._scopes.__getitem__, names):
            scope.dirty |= users
            scope.times = scope.times.joined(times)
            scope.late |= users
            scope.late_times = scope.late_times.joined(times)

    def _begin_all(self) -> None:
        for name in SCOPES:
            if self._scopes[name].flight is None:
                self._begin(name)

    def _begin(self, name: str | None = None) -> None:
        name = name or self._one(in_flight=False)
        if name is not None:
            scope = self._scopes[name]
            scope.flight = self._real.begin_again(name, 0)
            scope.begun_times, scope.late, scope.late_times = scope.times, set(), NO_DATA
            scope.has_taken = scope.is_settled = False

    def _take(self) -> None:
        name = self._one(in_flight=True)
        if name is not None and not self._scopes[name].is_settled:
            scope, group = self._scopes[name], self._source.randrange(GROUPS)
            assert scope.flight is not None
            taken = {(group, dense) for dense in scope.flight.take(group)}
            assert taken == {user for user in scope.late if user[0] == group}
            scope.late -= taken
            scope.has_taken |= bool(taken)

    def _settle(self) -> None:
        name = self._one(in_flight=True)
        if name is not None:
            flight = self._scopes[name].flight
            assert flight is not None
            flight.settle()
            self._scopes[name].is_settled = True

    def _finish_all(self) -> None:
        for name in SCOPES:
            if self._scopes[name].flight is not None:
                self._finish(name)

    def _finish(self, name: str | None = None) -> None:
        name = name or self._one(in_flight=True)
        if name is not None:
            scope = self._scopes[name]
            self._real.finish(name, READS[name.partition("-")[0]])
            scope.dirty, scope.times, scope.flight = set(scope.late), scope.late_times, None

    def _abandon(self) -> None:
        name = self._one(in_flight=True)
        if name is not None:
            self._real.abandon(name, self._scopes[name].flight)
            self._scopes[name].flight = None

    def _remove(self) -> None:
        gone = self._users()
        self._real.remove(ACCOUNT, by_group(gone))
        for scope in self._scopes.values():
            scope.dirty -= gone
            scope.late = scope.late - gone if scope.is_settled else scope.late | gone

    def check(self) -> None:
        """Everything that can be asked has the same answer."""
        published = self._real.of_account(ACCOUNT)
        for name, scope in self._scopes.items():
            groups = self._real.of(name)
            assert groups is not None
            assert users_of(groups) == scope.dirty, name
            assert self._real.count(name) == len(scope.dirty)
            assert published[name].groups is groups
            if scope.flight is None:
                continue
            assert users_of(scope.flight.late.groups) == scope.late, name
            assert (scope.flight.times, scope.flight.late_times) == (scope.begun_times, scope.late_times)
            some = self._users()
            apart = scope.flight.is_apart_from(by_group(some))
            assert apart is (not scope.has_taken and not some & scope.late), name


def by_group(users: set[User]) -> dict[int, BitMap]:
    found: dict[int, BitMap] = {}
    for group, dense in users:
        found.setdefault(group, BitMap()).add(dense)
    return found


def users_of(groups: tuple[BitMap, ...]) -> set[User]:
    return {(group, dense) for group, users in enumerate(groups) for dense in users}


@pytest.mark.parametrize("_", range(20))
def test_each_scope_has_its_own_dirty_and_late_users(_: int) -> None:
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    beside = Beside(random.Random(seed))
    for _step in range(STEPS):
        beside.step()
        beside.check()


def test_scopes_that_read_the_same_and_are_refreshed_together_share_one_set() -> None:
    """So a write is marked once, however many they are."""
    dirty = DirtyUsers(GROUPS)
    names = [f"s{number}" for number in range(5)]
    for name in names:
        dirty.track(ACCOUNT, name, whole=True, reads=READS["buys"])
    dirty.track(ACCOUNT, "other", whole=True, reads=READS["visits"])
    for name in (*names, "other"):
        assert dirty.begin_again(name, 0) is not None
    for name in names:
        dirty.finish(name, READS["buys"])
    dirty.finish("other", READS["visits"])
    assert len({id(dirty.of(name)) for name in names}) == 1
    assert dirty.of("other") is not dirty.of("s0")
    dirty.mark([ReadBy(frozenset(names), {1: BitMap([4])})])
    assert [dirty.count(name) for name in (*names, "other")] == [1, 1, 1, 1, 1, 0]


def test_scopes_that_were_refreshed_one_by_one_share_one_set_until_data_come() -> None:
    """After a start each journey is calculated by itself: the first data mark one set all the same."""
    dirty = DirtyUsers(GROUPS)
    buys, visits = READS["buys"], READS["visits"]
    for name, reads in (("s0", buys), ("s1", buys), ("other", visits)):
        dirty.begin(ACCOUNT, name, reads)
        dirty.finish(name, reads)
    assert dirty.of("s0") is dirty.of("s1") is not dirty.of("other")
    dirty.mark([ReadBy(frozenset(["s0", "s1"]), {1: BitMap([4])})])
    dirty.begin(ACCOUNT, "s2", buys)
    dirty.finish("s2", buys)
    assert [dirty.count(name) for name in ("s0", "s1", "s2", "other")] == [1, 1, 0, 0]
    dirty.mark([ReadBy(frozenset(["s0", "s1", "s2"]), {0: BitMap([1])})])
    assert [dirty.count(name) for name in ("s0", "s1", "s2", "other")] == [2, 2, 1, 0]


def test_a_scope_that_reads_less_than_while_it_was_refreshed_has_a_set_of_its_own() -> None:
    dirty = DirtyUsers(GROUPS)
    buys, visits = READS["buys"], READS["visits"]
    assert buys is not None
    assert visits is not None
    both = buys | visits
    for name in ("wide", "narrower"):
        dirty.track(ACCOUNT, name, whole=True, reads=both)
        dirty.begin(ACCOUNT, name, both)
    dirty.finish("wide", both)
    dirty.finish("narrower", buys)
    dirty.mark([ReadBy(frozenset(["wide"]), {0: BitMap([1])})])
    assert [dirty.count(name) for name in ("wide", "narrower")] == [1, 0]
