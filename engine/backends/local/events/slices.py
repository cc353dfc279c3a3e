"""Slices: dyadic, day-aligned time ranges that hold a table's stored parts.

Slice (level, number) covers the UTC days from number << level to (number + 1) << level. The slices of a table
do not overlap. Days start in a root of 2^`ROOT_LEVEL` days. A slice with too many rows splits in two, down to
single days. So sparse tables have few slices and dense ones have one per day or few days. A window reads
whole slices plus at most one slice at either end, where times are checked row by row.
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
"""Rows above which a slice of several days is split."""

DAYS_COUNTED_MAX = 1 << 16
"""Span of days above which rows are not counted day by day."""

NUMBER_BIAS = 1 << 31
"""Added to a slice's number in keys, which are unsigned: days before 1970 are negative."""


class SliceKey(NamedTuple):
    """The days a slice covers."""

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
    """The slice for a row of that day: an existing one, or the largest that overlaps none.

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
    """Rows of each slice, ascending (None = all), for rows with these times."""
    slices = {found.first_day: found for found in existing}
    first_days = sorted(slices)
    first = slice_for_day(first_days, slices, int(times.min()) // MICROS_PER_DAY)
    if int(times.max()) // MICROS_PER_DAY < first.end_day:
        yield first, None
        return
    days, day_of_row = _days_of(times)
    yield from _rows_by_key([slice_for_day(first_days, slices, day) for day in days.tolist()], day_of_row)


def rows_by_child(times: Int64s, parent: SliceKey, rows_max: int) -> Iterator[tuple[SliceKey, Positions]]:
    """Rows of the slices that a slice splits into, ascending. All are of one level: the highest at which none
    has more than `rows_max`, or single days. Empty children are left out.
    """
    days, day_of_row = _days_of(times)
    rows_of_day = np.bincount(day_of_row)
    level = parent.level - 1
    while level and np.bincount((days >> level) - (days[0] >> level), rows_of_day).max() > rows_max:
        level -= 1
    yield from _rows_by_key([SliceKey(level, day >> level) for day in days.tolist()], day_of_row)


def _days_of(times: Int64s) -> tuple[Int64s, Ints]:
    """The distinct days, ascending, and for each row the index of its day."""
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
    """Rows of each key, ascending. `index_of_row` is the index of each row's key in `keys`."""
    numbers: dict[SliceKey, int] = {}
    number_of_index = np.array([numbers.setdefault(found, len(numbers)) for found in keys])
    number_of_row = smallest(number_of_index)[index_of_row]
    # Radix sort, as the numbers are small.
    order = np.argsort(number_of_row, kind="stable")
    ends = np.cumsum(np.bincount(number_of_row)).tolist()
    for slice_key, start, end in zip(numbers, [0, *ends], ends, strict=False):
        yield slice_key, order[start:end]
