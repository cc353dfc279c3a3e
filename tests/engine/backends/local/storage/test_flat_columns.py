"""Flat columns follow every write to the pages they were copied from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.storage import flat_columns
from engine.backends.local.storage.flat_columns import (
    HOUR_BITS,
    HOURS_BEFORE,
    FlatColumn,
    FlatColumns,
    HeldColumns,
    mask_of_values,
)
from engine.backends.local.storage.page_cache import ABSENT_TIME, PAGE_USERS
from engine.backends.local.storage.ranges import Ranges
from engine.bounded_cache import BoundedCache
from engine.criteria.ranges import Interval, TimeRange
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS

PAGE_COUNT = 20
"""More than are copied between two pauses."""
COLUMNS = ("first", "last")

steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("write"),
            st.sampled_from(COLUMNS),
            st.integers(0, PAGE_COUNT * PAGE_USERS - 1),
            st.integers(0, 9),
        ),
        st.tuples(st.just("ask"), st.sampled_from(COLUMNS), st.integers(1, PAGE_COUNT), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=20,
)


class World:
    """Pages of two columns, and the flat copies of what was asked about."""

    def __init__(self, held: HeldColumns) -> None:
        self.pages = {name: np.full((PAGE_COUNT, PAGE_USERS), ABSENT_TIME, np.int64) for name in COLUMNS}
        self.flat = FlatColumns(held, "world")
        self.copied: list[int] = []

    def write(self, name: str, user: int, value: int) -> None:
        self.flat.wrote(name, user)
        self.pages[name].reshape(-1)[user] = value

    def values(
        self, name: str, count: int, in_pause: list[tuple[str, int, int]] | None = None
    ) -> flat_columns.Values:
        def page_of(page: int) -> flat_columns.Values | None:
            self.copied.append(page)
            values = self.pages[name][page]
            return None if (values == ABSENT_TIME).all() else values

        def pause() -> None:
            for write in in_pause or ():
                self.write(*write)

        return self.flat.values(name, count, ABSENT_TIME, page_of, pause)


@given(steps, st.sampled_from((1, 1 << 30)))
def test_they_equal_the_pages_after_any_writes(steps: list[tuple[str, str, int, int]], room: int) -> None:
    # With little room, a column drives out the other.
    world = World(BoundedCache("flat columns", room))
    for what, name, number, value in steps:
        if what == "write":
            world.write(name, number, value)
            continue
        count = number * PAGE_USERS - value
        assert (world.values(name, count) == world.pages[name].reshape(-1)[:count]).all()


def test_only_pages_that_were_written_to_are_copied_again() -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    count = 3 * PAGE_USERS
    world.values("last", count)
    assert world.copied == [0, 1, 2]
    world.values("last", count)
    world.write("last", PAGE_USERS + 7, 5)
    world.write("first", 0, 5)
    assert world.values("last", count)[PAGE_USERS + 7] == 5
    assert world.copied == [0, 1, 2, 1]
    # A column that grows copies what is new.
    world.values("last", count + 1)
    assert world.copied == [0, 1, 2, 1, 3]


def test_a_page_written_to_during_a_pause_is_copied_again() -> None:
    world = World(BoundedCache("flat columns", 1 << 30))
    count = PAGE_COUNT * PAGE_USERS
    found = world.values("last", count, in_pause=[("last", 3, 8), ("last", count - 1, 9)])
    assert (found[3], found[-1]) == (8, 9)
    assert (world.values("last", count) == world.pages["last"].reshape(-1)).all()


def test_values_are_compared_piece_by_piece() -> None:
    values = np.arange(3 * flat_columns.COMPARED_AT_ONCE + 5)
    pauses: list[None] = []
    ranges = Ranges.of_instants((TimeRange(start=5, end=len(values) - 1),))
    mask = mask_of_values(values, ranges, lambda: pauses.append(None))
    assert np.flatnonzero(mask).tolist() == list(range(5, len(values) - 1))
    assert len(pauses) == 4


NUMBERS = (0.0, -0.0, 1.0, 7.0, 65_534.0, 65_535.0, 65_536.0, -1.0, 0.5, 1e300, -1e300, float("nan"))


@given(
    st.lists(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.tuples(st.sampled_from(NUMBERS[:-1]), st.booleans()), min_size=1, max_size=12),
)
def test_numbers_in_two_bytes_lie_in_the_same_ranges(
    pages: list[list[float]], bounds: list[tuple[float, bool]]
) -> None:
    stored = [np.resize(np.array(page), PAGE_USERS) for page in pages]
    count = len(stored) * PAGE_USERS
    flat = FlatColumns(BoundedCache("flat", 1 << 30), "world")
    ends = sorted({number for number, _ in bounds})
    included = dict(bounds)
    intervals = [
        Interval(low, included[low], high, included[high])
        for low, high in zip(ends[::2], ends[1::2], strict=False)
    ] or [Interval(ends[0], included[ends[0]])]
    ranges = Ranges.of_numbers(intervals)
    # Asked about page by page: a column in two bytes may have to grow wider.
    for known in range(1, len(stored) + 1):
        values = flat.values("score", known * PAGE_USERS, math.nan, lambda page: stored[page], lambda: None)
        assert ranges.holds(values).tolist() == ranges.holds(np.concatenate(stored[:known])).tolist()
    assert len(values) == count
    are_small = all(math.isnan(each) or each in (0.0, 1.0, 7.0, 65_534.0) for page in pages for each in page)
    assert (values.dtype == np.uint16) == are_small


INSTANTS = st.one_of(
    st.sampled_from((ABSENT_TIME + 1, TIME_MIN_MICROS, TIME_MAX_MICROS, 0)),
    # About the ends of hours, of those that are told apart and beyond.
    st.builds(
        lambda hour, offset: (hour << HOUR_BITS) + offset,
        st.sampled_from((-70_000, -HOURS_BEFORE, -1, 0, 1, 5_000, 6_000, 70_000)),
        st.sampled_from((-1, 0, 1, 1 << 31)),
    ),
)


@pytest.mark.parametrize("users_min", [0, 2 * PAGE_USERS, 1 << 30])
@given(
    st.lists(st.lists(INSTANTS | st.just(ABSENT_TIME), min_size=1, max_size=8), min_size=1, max_size=3),
    st.lists(st.tuples(INSTANTS, INSTANTS), min_size=1, max_size=3),
    st.integers(0, PAGE_USERS - 1),
)
def test_times_lie_in_the_same_ranges_by_their_hours(
    users_min: int, pages: list[list[int]], ends: list[tuple[int, int]], missing: int
) -> None:
    stored = [np.resize(np.array(page, np.int64), PAGE_USERS) for page in pages]
    column = FlatColumn(ABSENT_TIME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_columns, "HOURS_USERS_MIN", users_min)
        # Hours come once there are enough times.
        for number, page in enumerate(stored):
            column.grow(number + 1)
            column.copy_page(number, page)
    count = len(stored) * PAGE_USERS - missing
    times = np.concatenate(stored)[:count]
    for low, high in ends:
        ranges = Ranges.of_instants((TimeRange(min(low, high), max(low, high) + 1),))
        mask = column.mask(ranges, count, lambda: None)
        expected = (times >= min(low, high)) & (times <= max(low, high)) & (times != ABSENT_TIME)
        assert (mask == expected).all()
