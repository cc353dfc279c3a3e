"""Random rows and questions for the event tables: few users, ties in time, edges of days, awkward numbers."""

from __future__ import annotations

from hypothesis import strategies as st

from engine.backends.local.events import (
    NEVER,
    EventRow,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    RowCondition,
)
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate, Equals, EventType, Exists, In, Text
from engine.criteria.operators import InstantRange, NumberRange, ResolvedTest
from engine.criteria.ranges import ALL_NUMBERS, Interval, TimeRange, merged_intervals
from engine.values import MICROS_PER_DAY, Value

FAR_USER = 150_000
"""A dense id far from the others, which makes most slots empty."""

BASE_DAY = 20_480
"""The first day of a root slice, 2026-01-27."""

ORDINARY_NUMBERS = (0.0, -0.0, 0.1, 0.2, 0.3, 1.0, -1.0, 2.5, 10.01, 100.0, 123456.789)
LONG_NUMBERS = (0.30000000000000004, 0.1234567890123456, 999999999999999.0, 1e15, 1e16, 1e-15)
EXTREME_NUMBERS = (1e308, -1e308, 1.7976931348623157e308, 5e-324, 1e-320)

numbers = st.sampled_from((*ORDINARY_NUMBERS, *LONG_NUMBERS, *EXTREME_NUMBERS))
times = st.builds(
    lambda day, offset: (BASE_DAY + day) * MICROS_PER_DAY + offset,
    st.sampled_from([-2000, -1, 0, 0, 1, 1, 64, 1024]),
    st.sampled_from([-1, 0, 0, 1, 7_200_000_000]),
)
values: st.SearchStrategy[Value] = st.one_of(
    numbers,
    st.sampled_from(["", "a", "A", "ab", "1", "Straße"]),
    st.booleans(),
    times,
    st.sampled_from([(), ("a",), ("a", "b"), ("ab",)]),
)
attributes = st.dictionaries(st.integers(1, 3), values, max_size=3)
users = st.sampled_from([0, 0, 1, 1, 2, 3, FAR_USER])
types = st.sampled_from([EventType.CUSTOM, EventType.COMMERCE])


def rows(count_max: int = 25) -> st.SearchStrategy[list[EventRow]]:
    """Rows in the order of arrival, their sequence numbers counting up."""
    one = st.tuples(
        st.sampled_from([0, 0, 1]), users, st.integers(1, 2), st.integers(1, 2), types, times, attributes
    )
    return st.lists(one, max_size=count_max).map(
        lambda drawn: [
            EventRow(group, user, input_number, name, type_, time, 100 + 3 * index, held)
            for index, (group, user, input_number, name, type_, time, held) in enumerate(drawn)
        ]
    )


near_times = st.integers(0, 4 * MICROS_PER_DAY).map(lambda offset: BASE_DAY * MICROS_PER_DAY + offset)
row_with_number = st.builds(
    lambda user, time, number: EventRow(0, user, 1, 1, EventType.CUSTOM, time, 0, {1: number}),
    users,
    near_times,
    numbers,
)
"""A row of group 0 whose attribute 1 is a number, at a time in one slice."""


def _range(start: int | None, end: int | None) -> TimeRange:
    return TimeRange(start, end)


time_ranges = st.builds(_range, st.none() | times, st.none() | times)


def _interval(low: float | None, with_low: bool, high: float | None, with_high: bool) -> Interval:
    return Interval(low, with_low, high, with_high)


def intervals(bounds: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[Interval, ...]]:
    one = st.builds(_interval, st.none() | bounds, st.booleans(), st.none() | bounds, st.booleans())
    points = bounds.map(lambda bound: Interval(bound, True, bound, True))
    return st.lists(one | points, min_size=1, max_size=2).map(merged_intervals)


tests: st.SearchStrategy[ResolvedTest] = st.one_of(
    st.just(Exists()),
    st.builds(Equals, values),
    st.builds(In, st.lists(values, max_size=4).map(tuple)),
    st.sampled_from([Text("contains", "a"), Text("contains", "a", True), Text("matches", "^.$")]),
    intervals(numbers).map(NumberRange),
    time_ranges.map(lambda span: InstantRange(() if span.is_empty else (span,))),
)
conditions: st.SearchStrategy[RowCondition] = st.recursive(
    st.builds(WhereAttribute, key=st.sampled_from([1, 2, 3, NEVER]), test=tests),
    lambda children: st.one_of(
        st.lists(children, max_size=3).map(lambda drawn: WhereAll(conditions=tuple(drawn))),
        st.lists(children, max_size=3).map(lambda drawn: WhereAny(conditions=tuple(drawn))),
        children.map(lambda child: WhereNot(condition=child)),
    ),
    max_leaves=4,
)
selections = st.builds(
    ResolvedSelection,
    inputs=st.sampled_from([(1, 2), (1, 2), (1,), (2, 3), ()]),
    name=st.sampled_from([None, None, 1, 2, NEVER]),
    type=st.none() | types,
    time=st.just(TimeRange()) | time_ranges,
    where=st.none() | conditions,
)
limits = numbers | st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, 5.5, 0.15, 0.6, 20.02, 3.336666666666667])
matches = st.builds(
    ResolvedEventMatch,
    selection=selections,
    aggregate=st.sampled_from(list(Aggregate)),
    of=st.sampled_from([1, 1, 2, NEVER]),
    time_zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia"]),
    intervals=intervals(limits),
)
whole_matches = st.builds(
    ResolvedEventMatch,
    selection=st.builds(
        ResolvedSelection, inputs=st.just((1, 2, 3)), time=st.just(TimeRange()) | time_ranges
    ),
    aggregate=st.sampled_from([Aggregate.FIRST, Aggregate.LAST, *Aggregate]),
    of=st.just(1),
    intervals=st.just((ALL_NUMBERS,)) | intervals(limits),
)
"""Aggregates over all rows of a time range, parts of which may be kept between questions."""
sequences = st.builds(
    ResolvedSequence,
    steps=st.lists(selections, min_size=1, max_size=4).map(tuple),
    within=st.none() | st.sampled_from([0, 1, 2, MICROS_PER_DAY, 2 * MICROS_PER_DAY, 1_000 * MICROS_PER_DAY]),
)
