"""First and last seen times compared with a dict, with buffered and unbuffered batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.page_cache import PAGE_USERS, PageCache
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.backends.local.storage.user_ref import GROUP_SHIFT
from engine.backends.local.users import first_last_seen as seen_module
from engine.backends.local.users.first_last_seen import FirstLastSeen
from engine.bounded_cache import BoundedCache
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS

INPUTS = (1, 2)
GROUPS = 2
USERS = (0, 1, 2, 20, PAGE_USERS - 1, PAGE_USERS, PAGE_USERS + 3)
TIMES = st.sampled_from((TIME_MIN_MICROS, -1, 0, 5, 6, 7, TIME_MAX_MICROS))

Times = dict[tuple[int, int, int], tuple[int, int]]
"""First and last time by input, group and user."""

accounts = count(1)
inputs = st.sampled_from(INPUTS)
groups = st.integers(0, GROUPS - 1)
users = st.sampled_from(USERS)
batches = st.tuples(inputs, groups, st.dictionaries(users, st.tuples(TIMES, TIMES), min_size=1))
single = st.tuples(inputs, groups, users, TIMES)
steps = st.one_of(
    st.tuples(st.just("many"), batches),
    st.tuples(st.just("one"), single),
    st.tuples(st.just("take"), st.tuples(groups, users)),
    st.tuples(st.just("ask"), st.tuples(inputs, groups, users, TIMES, st.booleans())),
    st.tuples(st.just("settle"), st.none()),
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    environment = Environment(Path(tmp_path_factory.mktemp("seen")) / "index", map_bytes=1 << 30)
    yield environment
    environment.close()


class Walk:
    """First and last seen times, beside a dict."""

    def __init__(self, index: Environment) -> None:
        self.page_cache = PageCache(index, 1 << 20)
        self.seen = FirstLastSeen(self.page_cache, next(accounts), BoundedCache("flat columns", 1 << 20))
        self.times: Times = {}

    def _widen(self, at: tuple[int, int, int], first: int, last: int) -> None:
        earliest, latest = self.times.get(at, (first, last))
        self.times[at] = min(earliest, first), max(latest, last)

    def many(self, input_number: int, group: int, found: dict[int, tuple[int, int]]) -> None:
        ids = sorted(found)
        spans = [(min(found[user]), max(found[user])) for user in ids]
        self.seen.begin()
        self.seen.touched.clear()
        self.seen.saw_many(
            input_number,
            group,
            np.array(ids, np.uint32),
            np.array([first for first, _ in spans], np.int64),
            np.array([last for _, last in spans], np.int64),
        )
        assert ("seen", input_number, group) in self.seen.touched
        new = {user for user in ids if (input_number, group, user) not in self.times}
        assert (("belongs", input_number, group) in self.seen.touched) == bool(new)
        for user, (first, last) in zip(ids, spans, strict=True):
            self._widen((input_number, group, user), first, last)

    def one(self, input_number: int, group: int, user: int, time: int) -> None:
        self.seen.begin()
        self.seen.saw(input_number, group << GROUP_SHIFT | user, time)
        assert ("seen", input_number, group) in self.seen.touched
        self._widen((input_number, group, user), time, time)

    def take(self, group: int, user: int) -> None:
        taken = self.seen.take(INPUTS, group << GROUP_SHIFT | user)
        assert taken == {
            number: self.times.pop((number, group, user))
            for number in INPUTS
            if (number, group, user) in self.times
        }
        assert {number for kind, number, _ in self.seen.touched if kind == "seen"} == taken.keys()

    def ask(self, input_number: int, group: int, user: int, bound: int, last: bool) -> None:
        ref = group << GROUP_SHIFT | user
        assert self.seen.times(input_number, ref) == self.times.get((input_number, group, user))
        ranges = Ranges(np.array([bound]), np.array([TIME_MAX_MICROS]))
        expected = {
            user
            for user in USERS
            if any((number, group, user) in self.times for number in INPUTS)
            and self._over_inputs(group, user, last) >= bound
        }
        counts = [max(USERS) + 1] * GROUPS
        assert set(self.seen.match(INPUTS, group, last, ranges, counts)) == expected
        ordinals = Ordinals(counts)
        found = self.seen.match_all(INPUTS, ordinals, last, ranges, counts, lambda: None)
        assert dict(ordinals.by_group(found)).get(group, BitMap()) == BitMap(expected)
        for some in (BitMap([user]), BitMap(USERS)):
            assert set(self.seen.match_users(INPUTS, group, last, ranges, some)) == expected & set(some)

    def _over_inputs(self, group: int, user: int, last: bool) -> int:
        found = [self.times[number, group, user] for number in INPUTS if (number, group, user) in self.times]
        return max(time for _, time in found) if last else min(time for time, _ in found)

    def settle(self, _: None) -> None:
        self.seen.settle()

    def check_belonging(self) -> None:
        for number in INPUTS:
            for group in range(GROUPS):
                expected = {user for found, of, user in self.times if (found, of) == (number, group)}
                assert set(self.seen.users([number], group)) == expected


@given(st.lists(steps, max_size=30), st.sampled_from((1, 4, 1_000)), st.sampled_from((1, 3, 16)))
def test_arrival_order_and_buffering_change_nothing(
    index: Environment, walk: list[tuple[str, tuple[object, ...] | None]], waiting_max: int, vector_min: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seen_module, "WAITING_USERS_MAX", waiting_max)
        patch.setattr(seen_module, "WAITING_BATCHES_MAX", waiting_max)
        patch.setattr(seen_module, "VECTOR_USERS_MIN", vector_min)
        state = Walk(index)
        for name, arguments in walk:
            state.seen.touched.clear()
            with state.page_cache.session():
                getattr(state, name)(*(arguments or (None,)))
                state.check_belonging()
        with state.page_cache.session():
            for number, group, user in state.times:
                state.ask(number, group, user, 0, last=True)


def test_buffered_times_are_visible_to_reads(index: Environment) -> None:
    state = Walk(index)
    with state.page_cache.session():
        for time in (7, 3, 5):
            state.many(1, 1, {2: (time, time + 1)})
        assert state.seen.times(1, 1 << GROUP_SHIFT | 2) == (3, 8)
        assert set(state.seen.users([1], 1)) == {2}
        assert state.seen.times(1, 0 << GROUP_SHIFT | 2) is None


@pytest.mark.parametrize("last", [False, True])
def test_times_over_many_inputs_are_read_between_pauses(index: Environment, last: bool) -> None:
    state = Walk(index)
    inputs = tuple(range(1, 3 * PAUSE_PAGES))
    expected: dict[int, int] = {}
    pauses: list[None] = []
    with state.page_cache.session():
        for number in inputs:
            user = number % 5
            state.seen.begin()
            state.seen.saw(number, 1 << GROUP_SHIFT | user, 100 - number)
            expected[user] = max(100 - number, expected.get(user, 0)) if last else 100 - number
        counts = [0, 5]
        for instant in range(101):
            ranges = Ranges(np.array([instant]), np.array([instant]))
            users = state.seen.match(inputs, 1, last, ranges, counts, lambda: pauses.append(None))
            assert set(users) == {user for user, time in expected.items() if time == instant}
        before = len(pauses)
        # A write to any of the inputs is seen.
        state.seen.saw(inputs[-1], 1 << GROUP_SHIFT | 2, 500 if last else -1)
        ranges = Ranges(np.array([500 if last else -1]), np.array([500]))
        users = state.seen.match(inputs, 1, last, ranges, counts, lambda: pauses.append(None))
        assert (set(users) == {2}) if last else (2 in users)
        assert len(pauses) - before >= 2 * len(inputs) // PAUSE_PAGES
