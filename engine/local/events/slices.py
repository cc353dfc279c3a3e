"""Slices: dyadic, day-aligned ranges of time that a table's stored parts sit in.

Slice (level, number) covers the UTC days number << level up to (number + 1) << level. A table's slices do not
overlap: days fall into a root of 2^`ROOT_LEVEL` days until that holds too many rows and splits in two, and
so on down to single days. Sparse tables so have few slices, dense ones one for a day or a few, and a window
reads whole slices plus at most one slice at either end where the times decide row by row.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from engine.local.events.arrays import Int64s, Positions, runs
from engine.values import MICROS_PER_DAY

ROOT_LEVEL = 10
SLICE_ROWS_MAX = 1 << 16
SLICE_PARTS_MAX = 8

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
    distinct, place = np.unique(times // MICROS_PER_DAY, return_inverse=True)
    numbers: dict[SliceKey, int] = {}
    number_of_day = [
        numbers.setdefault(slice_for_day(first_days, slices, day), len(numbers)) for day in distinct.tolist()
    ]
    keys = list(numbers)
    number_of_row = np.array(number_of_day)[place]
    order = np.argsort(number_of_row, kind="stable")
    bounds = runs(number_of_row[order])
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        rows = order[start:end]
        yield keys[number_of_row[rows[0]]], rows


def rows_by_half(times: Int64s, parent: SliceKey) -> Iterator[tuple[SliceKey, Positions]]:
    """The rows of each half of a slice, halves without rows left out."""
    middle = parent.child_of(parent.first_day).end_day * MICROS_PER_DAY
    halves = (parent.child_of(parent.first_day), parent.child_of(parent.end_day - 1))
    for half, rows in zip(halves, (times < middle, times >= middle), strict=True):
        if rows.any():
            yield half, np.flatnonzero(rows)
