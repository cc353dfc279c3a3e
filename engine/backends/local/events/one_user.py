"""Aggregates of one user, whose rows are in memory: without arrays over users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from engine.backends.local.events.columns import NumberColumn
from engine.backends.local.events.decimals import integer_bounds
from engine.backends.local.events.part import Part, TakesLong
from engine.criteria.ranges import Interval
from engine.values import Kind

RowsOfOne: TypeAlias = tuple[Part, range]
"""Some rows of a part, at least one, all of one user."""

ROWS_ADDED_MAX = 1_024
"""Rows of a user that are added up one by one."""


def sum_of_one_passes(rows: Sequence[RowsOfOne], of: int, intervals: Sequence[Interval]) -> bool:
    """Whether there are numbers, and their sum lies in an interval. Raises TakesLong when they have to be
    read or are no short decimals.
    """
    total = count = exponent = 0
    for part, positions in rows:
        column = part.column_in_memory(of, Kind.NUMBER)
        if column is None:
            continue
        if (
            not isinstance(column, NumberColumn)
            or column.mantissas is None
            or len(positions) > ROWS_ADDED_MAX
        ):
            raise TakesLong
        first, last = positions.start, positions.stop
        if column.positions is not None:
            first, last = column.positions.searchsorted((first, last)).tolist()
        count += last - first
        added = sum(column.mantissas[first:last].tolist())
        if column.exponent > exponent:
            total *= 10 ** (column.exponent - exponent)
            exponent = column.exponent
        total += added * 10 ** (exponent - column.exponent)
    return count > 0 and any(_lies_in(total, exponent, interval) for interval in intervals)


def _lies_in(total: int, exponent: int, interval: Interval) -> bool:
    low, high = integer_bounds(interval, exponent)
    return (low is None or low <= total) and (high is None or total <= high)
