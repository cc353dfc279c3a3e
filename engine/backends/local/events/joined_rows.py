"""The rows of several parts of a table, one after the other, for conditions that are decided row by row.

A condition takes a few calls of numpy for each part, and a count a few more. Of parts with some ten thousand
rows these calls take longer than their work. So the columns that a condition reads are kept joined: for the
parts that lie wholly in the window, and for those at its edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.backends.local.events.columns import (
    Column,
    DictionaryColumn,
    integers_between,
    joined,
)
from engine.backends.local.events.model import RowCondition
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.events.select import holds
from engine.backends.local.storage.arrays import Int64s, Uint32s
from engine.criteria.ranges import TimeRange
from engine.values import Kind

ROWS_PER_VALUE_MIN = 16
"""Rows for each distinct value, on average, below which dictionaries of parts are not joined."""


@dataclass(frozen=True, slots=True)
class _JoinedColumn:
    """A column of the joined rows; None when no row has a value, or there are too many values to join."""

    column: Column | None
    are_too_many: bool = False

    @property
    def nbytes(self) -> int:
        return 0 if self.column is None else self.column.nbytes


class _TooManyValues(Exception):
    """A part has a dictionary that is not worth joining."""


class _JoinedRows:
    """All rows of stored parts without tombstones. What is read of them is cached until one of the parts
    changes.
    """

    def __init__(self, parts: Sequence[Part], check: Callable[[], None]) -> None:
        self._parts = parts
        self._check = check

    def users(self) -> Uint32s:
        """The user of each row."""
        row_users = (part.row_users() for part in self._parts)
        return derived_of_all(self._parts, "joined users", lambda: np.concatenate([*row_users]))

    def times(self) -> Int64s:
        """The time of each row."""
        times = (part.times() for part in self._parts)
        return derived_of_all(self._parts, "joined times", lambda: np.concatenate([*times]))

    def column(self, attribute: int, kind: Kind) -> Column | None:
        """The values of an attribute and kind; None when no row has any. Raises _TooManyValues."""
        tag = ("joined column", attribute, kind)
        found = derived_of_all(self._parts, tag, lambda: self._joined_column(attribute, kind))
        if found.are_too_many:
            raise _TooManyValues
        return found.column

    def _joined_column(self, attribute: int, kind: Kind) -> _JoinedColumn:
        pieces: list[tuple[int, int, Column]] = []
        first = 0
        for part in self._parts:
            self._check()
            column, rows = part.column(attribute, kind), part.record.rows
            if column is not None:
                pieces.append((first, rows, column))
            if isinstance(column, DictionaryColumn) and column.entries.count * ROWS_PER_VALUE_MIN > len(
                column
            ):
                return _JoinedColumn(None, are_too_many=True)
            first += rows
        return _JoinedColumn(joined(pieces, np.arange(first)) if pieces else None)


def users_passing(
    parts: Sequence[Part], where: RowCondition, time: TimeRange, check: Callable[[], None]
) -> Uint32s | None:
    """The users of the rows of stored parts without tombstones that lie in a range of time and for which a
    condition holds, once for each row. None: the parts are not to be joined.
    """
    rows = _JoinedRows(parts, check)
    users = rows.users()
    try:
        held = holds(where, rows, None, len(users), check)
    except _TooManyValues:
        return None
    if not all(part.within(time.start, time.end) for part in parts):
        held &= integers_between(rows.times(), time.start, None if time.end is None else time.end - 1)
    # Several times as fast as an index of booleans, here and elsewhere.
    return users.take(np.flatnonzero(held))
