"""Tests which entries of a column lie in a set of ranges."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.page_cache import ABSENT_TIME
from engine.criteria.ranges import Interval, TimeRange
from engine.values import TIME_MAX_MICROS

COMPARED_RANGES_MAX = 4
"""Ranges up to which each is compared; above, bisection is used."""


SMALL_MAX = (1 << 16) - 2
"""The greatest integer in a column of small integers. There each is one more than it is."""
ABSENT_SMALL = 0
"""Stands for no value there."""


class Ranges:
    """Sorted, disjoint ranges of one dtype, both ends included. Absent entries lie in none. Ranges of doubles
    are tested on small integers too.
    """

    def __init__(self, lows: npt.NDArray[Any], highs: npt.NDArray[Any]) -> None:
        self._lows = lows
        self._highs = highs
        # A side that excludes nothing needs no comparison: absent numbers are NaN and fail any; absent
        # times lie below every low.
        open_high = np.inf if highs.dtype == np.float64 else TIME_MAX_MICROS
        self._spans = [
            (None if low == -np.inf and high != open_high else low, None if high == open_high else high)
            for low, high in zip(lows, highs, strict=True)
        ]

    @classmethod
    def of_numbers(cls, intervals: Sequence[Interval]) -> Ranges:
        """Ranges of doubles; an excluded bound becomes the double next to it."""
        if not intervals:
            return _NO_NUMBERS
        lows = np.array([-np.inf if i.low is None else i.low for i in intervals], np.float64)
        highs = np.array([np.inf if i.high is None else i.high for i in intervals], np.float64)
        open_low = np.array([not i.low_included and i.low is not None for i in intervals], np.bool_)
        open_high = np.array([not i.high_included and i.high is not None for i in intervals], np.bool_)
        # Above the greatest double comes infinity, which no column holds.
        with np.errstate(over="ignore"):
            return cls(
                np.where(open_low, np.nextafter(lows, np.inf), lows),
                np.where(open_high, np.nextafter(highs, -np.inf), highs),
            )

    @classmethod
    def of_instants(cls, ranges: Sequence[TimeRange]) -> Ranges:
        """Ranges of instants in microseconds."""
        if not ranges:
            return _NO_INSTANTS
        earliest, latest = ABSENT_TIME + 1, TIME_MAX_MICROS
        lows = [earliest if r.start is None else r.start for r in ranges]
        highs = [latest if r.end is None else r.end - 1 for r in ranges]
        return cls(np.array(lows, np.int64), np.array(highs, np.int64))

    def __bool__(self) -> bool:
        return len(self._lows) > 0

    @property
    def only_span(self) -> tuple[int, int] | None:
        """The only range, of instants, both ends included; None when there are more or none."""
        if len(self._lows) != 1 or self._lows.dtype != np.int64:
            return None
        return int(self._lows[0]), int(self._highs[0])

    def holds(self, column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """A mask of the entries that lie in one of the ranges."""
        if column.dtype == np.uint16:
            return self._hold_small(column)
        if len(self._lows) > COMPARED_RANGES_MAX:
            at = np.searchsorted(self._lows, column, "right") - 1
            return np.asarray((at >= 0) & (column <= self._highs[at]))
        masks = [_between(column, low, high) for low, high in self._spans]
        return functools.reduce(np.logical_or, masks) if masks else np.zeros(len(column), np.bool_)

    @functools.cached_property
    def _small_spans(self) -> list[tuple[int, int]]:
        """The ranges of small integers, as a column has them, that lie in the ranges; both ends included."""
        found = []
        for low, high in zip(self._lows.tolist(), self._highs.tolist(), strict=True):
            first = 0 if low <= 0 else math.ceil(min(low, SMALL_MAX + 1))
            last = -1 if high < 0 else math.floor(min(high, SMALL_MAX))
            if first <= last:
                found.append((first + 1, last + 1))
        return found

    def _hold_small(self, column: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
        if len(self._small_spans) > COMPARED_RANGES_MAX:
            inside = np.zeros(SMALL_MAX + 2, np.bool_)
            for first, last in self._small_spans:
                inside[first : last + 1] = True
            return inside.take(column)
        masks = [_small_between(column, first, last) for first, last in self._small_spans]
        return functools.reduce(np.logical_or, masks) if masks else np.zeros(len(column), np.bool_)


def _small_between(column: npt.NDArray[np.uint16], first: int, last: int) -> npt.NDArray[np.bool_]:
    """Entries from the first to the last."""
    if last > SMALL_MAX:
        return np.asarray(column >= first)
    # What lies below the first becomes large.
    return np.asarray(column - np.uint16(first) <= last - first)


def _between(column: npt.NDArray[Any], low: Any, high: Any) -> npt.NDArray[np.bool_]:
    """Entries from low to high; None leaves a side unchecked, one of them only."""
    if high is None:
        return np.asarray(column >= low)
    if low is None:
        return np.asarray(column <= high)
    return np.asarray((column >= low) & (column <= high))


# Most tests pass neither numbers nor times.
_NO_NUMBERS = Ranges(np.zeros(0, np.float64), np.zeros(0, np.float64))
_NO_INSTANTS = Ranges(np.zeros(0, np.int64), np.zeros(0, np.int64))
