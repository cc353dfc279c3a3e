"""Slices: dyadic, day-aligned ranges of time that a table's stored parts sit in.

Slice (level, number) covers the UTC days number << level up to (number + 1) << level. A table's slices do not
overlap: days fall into a root of 2^`ROOT_LEVEL` days until that holds too many rows and splits in two, and
so on down to single days. Sparse tables so have few slices, dense ones one for a day or a few, and a window
reads whole slices plus at most one slice at either end where the times decide row by row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.backends.local.storage.arrays import Int64s, Ints, Positions, smallest
from engine.values import MICROS_PER_DAY

ROOT_LEVEL = 10
SLICE_ROWS_MAX = 1 << 16
"""A slice of several days with more rows is split."""

DAYS_COUNTED_MAX = 1 << 16
"""Days that are further apart than this are not counted one by one."""

NUMBER_BIAS = 1 << 31
"""Added to a slice's number in keys, where numbers are unsigned: years before 1970 have negative days."""


class SliceKey(NamedTuple):
    """Which days a slice covers."""

    level: int
    number: int

    @property
    def first_day(self) -> int:
        return self.number << self.level

    @property
    def end_day(self) -> int:
        return (self.number + 1) << self.level

    def child_of(self, day: int) -> SliceKey:
        """The half of this slice that covers the day."""
        return SliceKey(self.level - 1, day >> (self.level - 1))


def slice_for_day(first_days: list[int], slices: dict[int, SliceKey], day: int) -> SliceKey:
    """The slice that a row of that day belongs to: an existing one, or the largest that overlaps none.

    `slices` are the existing ones by first day, `first_days` its sorted keys.
    """
    wanted = SliceKey(ROOT_LEVEL, day >> ROOT_LEVEL)
    while True:
        at = bisect_left(first_days, wanted.first_day)
        if at == len(first_days) or first_days[at] >= wanted.end_day:
            return wanted
        found = slices[first_days[at]]
        if found == wanted:
            return wanted
        wanted = wanted.child_of(day)


def rows_by_slice(times: Int64s, existing: Iterable[SliceKey]) -> Iterator[tuple[SliceKey, Positions | None]]:
    """The rows of each slice, ascending (None = all of them), for rows with these times."""
    slices = {found.first_day: found for found in existing}
    first_days = sorted(slices)
    first = slice_for_day(first_days, slices, int(times.min()) // MICROS_PER_DAY)
    if int(times.max()) // MICROS_PER_DAY < first.end_day:
        yield first, None
        return
    days, day_of_row = _days_of(times)
    yield from _rows_by_key([slice_for_day(first_days, slices, day) for day in days.tolist()], day_of_row)


def rows_by_child(times: Int64s, parent: SliceKey, rows_max: int) -> Iterator[tuple[SliceKey, Positions]]:
    """The rows of the slices that a slice splits into, ascending: all of one level, the highest at which none
    has more than `rows_max`, or single days. Children without rows are left out.
    """
    days, day_of_row = _days_of(times)
    rows_of_day = np.bincount(day_of_row)
    level = parent.level - 1
    while level and np.bincount((days >> level) - (days[0] >> level), rows_of_day).max() > rows_max:
        level -= 1
    yield from _rows_by_key([SliceKey(level, day >> level) for day in days.tolist()], day_of_row)


def _days_of(times: Int64s) -> tuple[Int64s, Ints]:
    """The different days, ascending, and for each row the place of its day."""
    days = times // MICROS_PER_DAY
    first, last = int(days.min()), int(days.max())
    if last - first > DAYS_COUNTED_MAX:
        distinct, day_indexes = np.unique(days, return_inverse=True)
        return distinct, smallest(day_indexes)
    days -= first
    rows = np.bincount(days)
    day_indexes = np.cumsum(rows > 0) - 1
    return np.flatnonzero(rows) + first, smallest(day_indexes)[days]


def _rows_by_key(keys: Sequence[SliceKey], index_of_row: Ints) -> Iterator[tuple[SliceKey, Positions]]:
    """The rows of each key, ascending, for rows that have places in the list of keys."""
    numbers: dict[SliceKey, int] = {}
    number_of_index = np.array([numbers.setdefault(found, len(numbers)) for found in keys])
    number_of_row = smallest(number_of_index)[index_of_row]
    # Radix sort, as the numbers are small.
    order = np.argsort(number_of_row, kind="stable")
    ends = np.cumsum(np.bincount(number_of_row)).tolist()
    for slice_key, start, end in zip(numbers, [0, *ends], ends, strict=False):
        yield slice_key, order[start:end]
