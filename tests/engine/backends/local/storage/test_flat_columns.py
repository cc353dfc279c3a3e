"""Flat columns follow every write to the pages they were copied from."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.storage import flat_columns
from engine.backends.local.storage.bitmaps import CONTAINER_IDS
from engine.backends.local.storage.flat_columns import (
    HOUR_BITS,
    HOURS_BEFORE,
    FlatColumns,
    HeldColumns,
    Stored,
)
from engine.backends.local.storage.ordinals import Ordinals
from engine.backends.local.storage.page_cache import ABSENT_TIME, PAGE_BITS, PAGE_USERS
from engine.backends.local.storage.ranges import Ranges
from engine.backends.local.storage.turns import PAUSE_PAGES
from engine.bounded_cache import BoundedCache
from engine.criteria.ranges import Interval, TimeRange
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS

GROUPS = 2
PAGE_COUNT = 10
"""Of a group; all together are more than are copied between two pauses."""
COLUMNS = ("first", "last")


class Write(NamedTuple):
    """A value of a user of a group."""

    name: str
    group: int
    user: int
    value: int


class Ask(NamedTuple):
    """A question about a column: of a group or (None) of all, with a range, the users that there are by now,
    and what is written in pauses.
    """

    name: str
    group: int | None
    low: int
    high: int
    counts: list[int]
    in_pause: list[Write]


names = st.sampled_from(COLUMNS)
writes = st.builds(
    Write,
    names,
    st.integers(0, GROUPS - 1),
    st.integers(0, PAGE_COUNT * PAGE_USERS - 1),
    st.integers(0, 3) | st.integers(1, 6).map(lambda hour: hour << HOUR_BITS),
)
bounds = st.integers(0, 6 << HOUR_BITS)
asks = st.builds(
    Ask,
    names,
    st.sampled_from((None, *range(GROUPS))),
    bounds,
    bounds,
    st.lists(st.integers(0, PAGE_COUNT * PAGE_USERS), min_size=GROUPS, max_size=GROUPS),
    st.lists(writes, max_size=2),
)
steps = st.lists(writes | asks, min_size=1, max_size=20)


class World:
    """Pages of two columns, and the flat copies of what was asked about."""

    def __init__(self, held: HeldColumns) -> None:
        shape = (GROUPS, PAGE_COUNT, PAGE_USERS)
        self.pages = {name: np.full(shape, ABSENT_TIME, np.int64) for name in COLUMNS}
        self.flat = FlatColumns(held, "world")
        self.counts = [PAGE_COUNT * PAGE_USERS] * GROUPS
        self.copied: list[tuple[int, int]] = []
        self.in_pause: list[Write] = []
        self.pauses = 0

    def write(self, name: str, group: int, user: int, value: int) -> None:
        self.flat.wrote(name, group, user)
        self.pages[name][group].reshape(-1)[user] = value

    def stored(self, name: str) -> Stored:
        def page_of(group: int, page: int) -> flat_columns.Values | None:
            self.copied.append((group, page))
            values = self.pages[name][group, page]
            return None if (values == ABSENT_TIME).all() else values

        return Stored(name, ABSENT_TIME, page_of)

    def pause(self) -> None:
        self.pauses += 1
        for write in self.in_pause:
            self.write(*write)

    def passing(self, name: str, group: int | None, low: int, high: int) -> set[tuple[int, int]]:
        """Groups and users found."""
        ranges = Ranges.of_instants((TimeRange(low, high),))
        if group is not None:
            users = self.flat.of_group(self.stored(name), group, self.counts, ranges, self.pause)
            return {(group, user) for user in users}
        ordinals = Ordinals(self.counts)
        found = self.flat.of_all(self.stored(name), ordinals, self.counts, ranges, self.pause)
        return {(each // ordinals.stride, each % ordinals.stride) for each in found}

    def expected(self, name: str, group: int | None, low: int, high: int) -> set[tuple[int, int]]:
        return {
            (each, user)
            for each in (range(GROUPS) if group is None else (group,))
            for user in np.flatnonzero(self._holds(name, each, low, high)).tolist()
        }

    def _holds(self, name: str, group: int, low: int, high: int) -> flat_columns.Values:
        values = self.pages[name][group].reshape(-1)[: self.counts[group]]
        return np.asarray((values >= low) & (values < high))


@given(steps, st.sampled_from((1, 1 << 30)), st.sampled_from((1, 1 << 16)), st.integers(0, 2))
def test_they_equal_the_pages_after_any_writes(
    steps: list[Write | Ask], room: int, share: int, again: int
) -> None:
    # With little room, a column drives out the other. With a share of one, any hour is kept.
    world = World(BoundedCache("flat columns", room))
    world.counts = [1] * GROUPS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_columns, "KEPT_SHARE", share)
        patch.setattr(flat_columns, "LOOKED_AT_SHARE", share)
        for step in steps:
            if isinstance(step, Write):
                world.counts[step.group] = max(world.counts[step.group], step.user + 1)
                world.write(*step)
                continue
            name, group, low, high, counts, in_pause = step
            world.counts = [max(pair) for pair in zip(world.counts, counts, strict=True)]
            world.in_pause = [each for each in in_pause if each.user < world.counts[each.group]]
            changed = {(each.group, each.user) for each in world.in_pause if each.name == name}
            found = world.passing(name, group, low, high)
            world.in_pause = []
            # Who changes during a pause may have the value of before, but not in the next question.
            assert found - changed == world.expected(name, group, low, high) - changed
            for _ in range(again):
                assert world.passing(name, group, low, high) == world.expected(name, group, low, high)


def test_only_pages_that_were_written_to_are_copied_again() -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    world.counts = [2 * PAGE_USERS, PAGE_USERS]
    assert world.passing("last", None, 0, 9) == set()
    assert world.copied == [(0, 0), (0, 1), (1, 0)]
    world.passing("last", None, 0, 9)
    world.write("last", 0, PAGE_USERS + 7, 5)
    world.write("first", 0, 0, 5)
    assert world.passing("last", None, 0, 9) == {(0, PAGE_USERS + 7)}
    assert world.copied == [(0, 0), (0, 1), (1, 0), (0, 1)]
    # A group alone reads its own pages.
    world.passing("first", 1, 0, 9)
    assert world.copied[4:] == [(1, 0)]
    world.passing("first", None, 0, 9)
    assert world.copied[5:] == [(0, 0), (0, 1)]


@pytest.mark.parametrize("asked", [(0, None, 1), (None, 0, 1)])
def test_groups_and_all_are_answered_from_one_column(asked: tuple[int | None, ...]) -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    for group in range(GROUPS):
        for user in range(GROUPS + group):
            world.write("last", group, user, (3 + user) << HOUR_BITS)
    # What whole hours hold is kept from the second question on.
    for _ in range(3):
        for part in asked:
            bounds = (1 << HOUR_BITS) + 1, (5 << HOUR_BITS) - 1
            assert world.passing("last", part, *bounds) == world.expected("last", part, *bounds)


def test_hours_follow_writes() -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    bounds = (2 << HOUR_BITS) + 1, (5 << HOUR_BITS) - 1
    for hour in (1, 3, 9, 2, 4):
        world.write("last", 1, 7, (hour << HOUR_BITS) + 5)
        for _ in range(3):
            expected = {(1, 7)} if 2 <= hour < 5 else set()
            assert world.passing("last", None, *bounds) == expected


def test_a_page_that_fails_is_read_again() -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    world.write("last", 1, 3, 5)
    column = world.stored("last")

    def fails(group: int, page: int) -> flat_columns.Values | None:
        if (group, page) == (1, 0):
            raise OSError("cannot be read")
        return column.page_of(group, page)

    ranges = Ranges.of_instants((TimeRange(0, 9),))
    ordinals = Ordinals(world.counts)
    for _ in range(2):
        with pytest.raises(OSError, match="cannot be read"):
            world.flat.of_all(column._replace(page_of=fails), ordinals, world.counts, ranges, world.pause)
    assert world.passing("last", None, 0, 9) == {(1, 3)}


@pytest.mark.parametrize("kept", [1, 1 << 16])
def test_others_go_first_between_pieces(kept: int) -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    world.passing("last", None, 0, 9)
    pages, size = GROUPS * PAGE_COUNT, Ordinals(world.counts).size
    assert world.pauses >= pages // PAUSE_PAGES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_columns, "COMPARED_BYTES", 1)
        # By hours, and, when none may be looked at, by times.
        patch.setattr(flat_columns, "LOOKED_AT_SHARE", kept)
        world.write("last", 0, 0, 5 << HOUR_BITS)
        world.passing("last", None, 0, 9)
        world.pauses = 0
        # For the hours at the ends and those between.
        world.passing("last", None, 0, 2 << HOUR_BITS)
    assert world.pauses >= size // CONTAINER_IDS


def _page_of(values: flat_columns.Values, _: int, page: int) -> flat_columns.Values:
    return values[page << PAGE_BITS : (page + 1) << PAGE_BITS]


NUMBERS = (0.0, -0.0, 1.0, 7.0, 65_534.0, 65_535.0, 65_536.0, -1.0, 0.5, 1e300, -1e300, float("nan"))


@given(
    st.lists(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(NUMBERS[:-1]), st.booleans()), min_size=1, max_size=12),
)
def test_numbers_in_two_bytes_lie_in_the_same_ranges(
    pages: list[list[float]], bounds: list[tuple[float, bool]]
) -> None:
    stored = [np.resize(np.array(page), PAGE_USERS) for page in pages]
    held: HeldColumns = BoundedCache("flat", 1 << 30)
    flat = FlatColumns(held, "world")
    ends = sorted({number for number, _ in bounds})
    included = dict(bounds)
    intervals = [
        Interval(low, included[low], high, included[high])
        for low, high in zip(ends[::2], ends[1::2], strict=False)
    ] or [Interval(ends[0], included[ends[0]])]
    ranges = Ranges.of_numbers(intervals)
    counts = [len(stored) << PAGE_BITS]
    # Some pages are copied again, and a column in two bytes may have to grow wider then.
    for known in range(1, len(stored) + 1):
        now = np.concatenate((*stored[:known], *([stored[0]] * (len(stored) - known))))
        part = Stored("score", math.nan, functools.partial(_page_of, now))
        flat.wrote("score", 0, (known - 1) << PAGE_BITS)
        found = flat.of_group(part, 0, counts, ranges, lambda: None)
        assert found == BitMap(np.flatnonzero(ranges.holds(now)).tolist())
    kept = held.peek(("world", "score"))
    assert kept is not None
    are_small = all(math.isnan(each) or each in (0.0, 1.0, 7.0, 65_534.0) for page in pages for each in page)
    assert (kept.values.dtype == np.uint16) == are_small


INSTANTS = st.one_of(
    st.sampled_from((ABSENT_TIME + 1, TIME_MIN_MICROS, TIME_MAX_MICROS, 0)),
    # About the ends of hours, of those that are told apart and beyond.
    st.builds(
        lambda hour, offset: (hour << HOUR_BITS) + offset,
        st.sampled_from((-70_000, -HOURS_BEFORE, -1, 0, 1, 5_000, 6_000, 70_000)),
        st.sampled_from((-1, 0, 1, 1 << 31)),
    ),
)


@pytest.mark.parametrize("share", [1, 8, 1 << 30])
@given(
    st.lists(st.lists(INSTANTS | st.just(ABSENT_TIME), min_size=1, max_size=8), min_size=1, max_size=3),
    st.lists(st.tuples(INSTANTS, INSTANTS), min_size=1, max_size=3),
    st.integers(0, PAGE_USERS - 1),
)
def test_times_lie_in_the_same_ranges_by_their_hours(
    share: int, pages: list[list[int]], ends: list[tuple[int, int]], missing: int
) -> None:
    stored = [np.resize(np.array(page, np.int64), PAGE_USERS) for page in pages]
    stored[-1][PAGE_USERS - missing :] = ABSENT_TIME
    times = np.concatenate(stored)
    flat = FlatColumns(BoundedCache("flat", 1 << 30), "world")
    column = Stored("seen", ABSENT_TIME, lambda group, page: stored[page])
    with pytest.MonkeyPatch.context() as patch:
        # How common the hours at the ends may be before all times are compared.
        patch.setattr(flat_columns, "LOOKED_AT_SHARE", share)
        patch.setattr(flat_columns, "KEPT_SHARE", share)
        for low, high in ends:
            low, high = min(low, high), max(low, high)
            ranges = Ranges.of_instants((TimeRange(low, high + 1),))
            expected = (times >= low) & (times <= high) & (times != ABSENT_TIME)
            # By all times, and then by their hours.
            for _ in range(2):
                found = flat.of_group(column, 0, [len(times) - missing], ranges, lambda: None)
                assert found == BitMap(np.flatnonzero(expected).tolist())
