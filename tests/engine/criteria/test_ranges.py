"""Ranges and intervals are sets: every operation is checked at points around their ends."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.ranges import (
    Interval,
    TimeRange,
    complement,
    hold_instant,
    hold_number,
    is_swept,
    merged_intervals,
    merged_ranges,
    spanned,
    swept,
)

ENDS = st.none() | st.integers(0, 6)
RANGES = st.builds(TimeRange, ENDS, ENDS)
INTERVALS = st.builds(
    Interval,
    low=st.none() | st.integers(0, 6).map(float),
    low_included=st.booleans(),
    high=st.none() | st.integers(0, 6).map(float),
    high_included=st.booleans(),
)
INSTANTS = range(-2, 10)
NUMBERS = [half / 2 for half in range(-3, 20)]


@given(st.lists(RANGES))
def test_merged_ranges_are_equal_and_disjoint(ranges: list[TimeRange]) -> None:
    merged = merged_ranges(ranges)
    assert [hold_instant(merged, t) for t in INSTANTS] == [hold_instant(ranges, t) for t in INSTANTS]
    for before, after in itertools.pairwise(merged):
        assert before.end is not None
        assert after.start is not None
        assert before.end < after.start


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=2, max_size=4))
def test_a_range_that_moves_on_sweeps_what_it_enters_or_leaves(ends: list[tuple[int, int]]) -> None:
    """Whatever the range is on its way, an instant that it ever enters or leaves is swept."""
    starts, stops = (sorted(values) for values in zip(*ends, strict=True))
    ways = [TimeRange(start, end) for start, end in zip(starts, stops, strict=True)]
    found = swept(ways[0], ways[-1])
    for instant in INSTANTS:
        if len({way.holds(instant) for way in ways}) == 2:
            assert hold_instant(found, instant)
        for last in INSTANTS:
            swept_between = any(hold_instant(found, t) for t in range(instant, last + 1))
            assert instant > last or is_swept(ways[0], ways[-1], instant, last) == swept_between
    whole = spanned(ways)
    assert not any(hold_instant(found, t) and not whole.holds(t) for t in INSTANTS)


@given(st.lists(INTERVALS))
def test_merged_intervals_hold_the_same_numbers(intervals: list[Interval]) -> None:
    merged = merged_intervals(intervals)
    assert [hold_number(merged, x) for x in NUMBERS] == [hold_number(intervals, x) for x in NUMBERS]
    assert merged_intervals(merged) == merged


@given(st.lists(INTERVALS))
def test_complement_contains_every_other_number(intervals: list[Interval]) -> None:
    rest = complement(intervals)
    assert [hold_number(rest, x) for x in NUMBERS] == [not hold_number(intervals, x) for x in NUMBERS]
    assert complement(rest) == merged_intervals(intervals)


def test_instants_beyond_the_precision_of_a_double_stay_exact() -> None:
    instant = 2**53 + 1
    span = TimeRange(instant, instant + 1)
    assert merged_ranges([span]) == (span,)
    assert swept(span, TimeRange(instant, None)) == (TimeRange(instant + 1, None),)
