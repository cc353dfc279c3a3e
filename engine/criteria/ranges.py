"""Ranges of instants and intervals of numbers: the clock-independent form of every ordering test.

Sets of them are tuples, sorted, disjoint and not touching: `merged_ranges` and `merged_intervals` convert any
tuple into that form, in which the empty tuple is the empty set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from engine.values import Micros


class TimeRange(msgspec.Struct, frozen=True, array_like=True):
    """Instants in [start, end); None leaves that side open."""

    start: Micros | None = None
    end: Micros | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it contains no instant."""
        return self.start is not None and self.end is not None and self.start >= self.end

    def holds(self, instant: Micros) -> bool:
        """Whether it contains the instant."""
        return (self.start is None or self.start <= instant) and (self.end is None or instant < self.end)


ALL_TIME = TimeRange()


class Interval(msgspec.Struct, frozen=True, array_like=True):
    """Numbers between low and high; None is unbounded. A bound means its shortest decimal form."""

    low: float | None = None
    low_included: bool = True
    high: float | None = None
    high_included: bool = True

    @property
    def is_empty(self) -> bool:
        """Whether it contains no number."""
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (
            self.low == self.high and not (self.low_included and self.high_included)
        )

    def holds(self, number: float) -> bool:
        """Whether it contains the number."""
        above = self.low is None or self.low < number or (self.low_included and self.low == number)
        below = self.high is None or number < self.high or (self.high_included and self.high == number)
        return above and below


ALL_NUMBERS = Interval()

Edge = tuple[float, int]
"""A position between two numbers: (x, 0) is just before x, (x, 1) just after it."""


def _low_edge(interval: Interval) -> Edge:
    return (-math.inf, 0) if interval.low is None else (interval.low, 0 if interval.low_included else 1)


def _high_edge(interval: Interval) -> Edge:
    return (math.inf, 1) if interval.high is None else (interval.high, 1 if interval.high_included else 0)


def _between(low: Edge, high: Edge) -> Interval:
    return Interval(
        low=None if math.isinf(low[0]) else low[0],
        low_included=math.isinf(low[0]) or low[1] == 0,
        high=None if math.isinf(high[0]) else high[0],
        high_included=math.isinf(high[0]) or high[1] == 1,
    )


def merged_intervals(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers as sorted intervals that neither overlap nor touch."""
    merged: list[tuple[Edge, Edge]] = []
    for low, high in sorted((_low_edge(i), _high_edge(i)) for i in intervals if not i.is_empty):
        if merged and low <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(_between(low, high) for low, high in merged)


def complement(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """Every number in none of the intervals."""
    gaps: list[Interval] = []
    reached: Edge = (-math.inf, 0)
    for interval in merged_intervals(intervals):
        if reached < _low_edge(interval):
            gaps.append(_between(reached, _low_edge(interval)))
        reached = _high_edge(interval)
    if reached < (math.inf, 1):
        gaps.append(_between(reached, (math.inf, 1)))
    return tuple(gaps)


def hold_number(intervals: Iterable[Interval], number: float) -> bool:
    """Whether one of the intervals contains the number."""
    return any(interval.holds(number) for interval in intervals)


Bounds = tuple[float, float]
"""Start and end of a range with the open sides as infinities; instants in between stay integers."""


def _bounds(span: TimeRange) -> Bounds:
    return (
        -math.inf if span.start is None else span.start,
        math.inf if span.end is None else span.end,
    )


def _range(start: float, end: float) -> TimeRange:
    return TimeRange(
        start=None if math.isinf(start) else int(start), end=None if math.isinf(end) else int(end)
    )


def merged_ranges(ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The same instants as sorted ranges that neither overlap nor touch."""
    merged: list[Bounds] = []
    for start, end in sorted(_bounds(span) for span in ranges if not span.is_empty):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(_range(start, end) for start, end in merged)


def spanned(ranges: Iterable[TimeRange]) -> TimeRange:
    """The smallest range that contains all of these."""
    bounds = [_bounds(span) for span in ranges]
    return _range(min(start for start, _ in bounds), max(end for _, end in bounds))


def swept(before: TimeRange, after: TimeRange) -> tuple[TimeRange, ...]:
    """The instants that a range enters or leaves on its way, of which neither end moves back."""
    (start, end), (last_start, last_end) = _bounds(before), _bounds(after)
    pieces = ((start, min(last_start, last_end)), (max(end, start), last_end))
    return merged_ranges(_range(low, high) for low, high in pieces if low < high)


def is_swept(before: TimeRange, after: TimeRange, first: Micros, last: Micros) -> bool:
    """Whether one of the instants from first to last, both included, is among those of `swept`."""
    (start, end), (last_start, last_end) = _bounds(before), _bounds(after)
    left, reached = min(last_start, last_end), max(end, start)
    return (start < left and start <= last and first < left) or (
        reached < last_end and reached <= last and first < last_end
    )


def hold_instant(ranges: Iterable[TimeRange], instant: Micros) -> bool:
    """Whether one of the ranges contains the instant."""
    return any(span.holds(instant) for span in ranges)
