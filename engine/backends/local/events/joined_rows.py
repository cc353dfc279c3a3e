"""The rows of several parts of a table, one after the other, for conditions that are decided row by row.

A condition takes a few calls of numpy for each part, and a count a few more. Of parts with some ten thousand
rows these calls take longer than their work. So the columns that a condition reads are kept joined: for the
parts that lie wholly in the window, and for those at its edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.backends.local.events.all_rows import RowsByDay
from engine.backends.local.events.columns import (
    Column,
    DictionaryColumn,
    integers_between,
    joined,
    joined_in_order,
)
from engine.backends.local.events.model import RowCondition
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.events.select import holds
from engine.backends.local.storage.arrays import Int64s, Ints, Uint32s
from engine.criteria.ranges import TimeRange
from engine.values import Kind

ROWS_PER_VALUE_MIN = 16
"""Rows for each distinct value, on average, below which dictionaries of parts are not joined."""

COUNT_BYTES = 1
"""Of the count of a user's rows, as a rule."""


@dataclass(frozen=True, slots=True)
class _JoinedColumn:
    """A column of the joined rows; None when no row has a value, or there are too many values to join."""

    column: Column | None
    are_too_many: bool = False

    @property
    def nbytes(self) -> int:
        return 0 if self.column is None else self.column.nbytes

    def found(self) -> Column | None:
        """The column. Raises _TooManyValues."""
        if self.are_too_many:
            raise _TooManyValues
        return self.column


class _TooManyValues(Exception):
    """A part has a dictionary that is not worth joining."""


class JoinedRows:
    """All rows of stored parts without tombstones. What is read of them is cached until one of the parts
    changes.
    """

    def __init__(
        self, parts: Sequence[Part], check: Callable[[], None], firsts: Sequence[int] | None = None
    ) -> None:
        """`firsts`: for each part what is added to its dense ids, such as the ordinal of the first user of
        its group. None: nothing.
        """
        self.parts = parts
        self.firsts = None if firsts is None else tuple(firsts)
        self.check = check

    def __len__(self) -> int:
        return sum(part.record.rows for part in self.parts)

    def users(self) -> Uint32s:
        """The user of each row."""
        tag = "joined users", self.firsts
        return derived_of_all(self.parts, tag, lambda: np.concatenate([*self.users_by_part()]))

    def users_by_part(self) -> Iterator[Uint32s]:
        """The user of each row of each part."""
        for number, part in enumerate(self.parts):
            self.check()
            yield part.row_users() if self.firsts is None else part.row_users_from(self.firsts[number])

    def times(self) -> Int64s:
        """The time of each row."""
        times = (part.times() for part in self.parts)
        return derived_of_all(self.parts, "joined times", lambda: np.concatenate([*times]))

    def column(self, attribute: int, kind: Kind) -> Column | None:
        """The values of an attribute and kind; None when no row has any. Raises _TooManyValues."""
        tag = ("joined column", attribute, kind)
        return derived_of_all(self.parts, tag, lambda: self._joined_column(attribute, kind, None)).found()

    def column_in(self, order: Uint32s, attribute: int, kind: Kind) -> Column | None:
        """As `column`, day by day."""
        tag = ("joined column by day", attribute, kind)
        return derived_of_all(self.parts, tag, lambda: self._joined_column(attribute, kind, order)).found()

    def _joined_column(self, attribute: int, kind: Kind, order: Uint32s | None) -> _JoinedColumn:
        pieces: list[tuple[int, int, Column]] = []
        first = 0
        for part in self.parts:
            self.check()
            column, rows = part.column(attribute, kind), part.record.rows
            if column is not None:
                pieces.append((first, rows, column))
            if isinstance(column, DictionaryColumn) and column.entries.count * ROWS_PER_VALUE_MIN > len(
                column
            ):
                return _JoinedColumn(None, are_too_many=True)
            first += rows
        if not pieces:
            return _JoinedColumn(None)
        if order is None:
            return _JoinedColumn(joined_in_order(pieces, first))
        return _JoinedColumn(joined(pieces, order.astype(np.int64)))

    def users_passing(self, where: RowCondition, time: TimeRange) -> Uint32s | None:
        """The users of the rows that lie in a range of time and for which a condition holds, once for each
        row. None: the parts are not to be joined.
        """
        try:
            held = holds(where, self, None, len(self), self.check)
        except _TooManyValues:
            return None
        if not all(part.within(time.start, time.end) for part in self.parts):
            held &= integers_between(self.times(), time.start, None if time.end is None else time.end - 1)
        # Several times as fast as an index of booleans, here and elsewhere.
        return self.users().take(np.flatnonzero(held))


class RowsInDays:
    """Joined rows day by day: those in a window follow each other, but in the days at its ends."""

    def __init__(self, rows: JoinedRows) -> None:
        self._rows = rows
        self._found = derived_of_all(rows.parts, ("rows by day", rows.firsts), lambda: _InDays.of_rows(rows))

    def count_between(self, time: TimeRange, counts: Ints) -> int:
        """Adds to `counts`, an item for each user, the user's rows in a range of time. Returns how many rows
        there are, or a few more.
        """
        by_day = self._found.by_day
        by_day.count_between(time.start, time.end, counts)
        return by_day.rows_between(time.start, time.end)

    def users_passing(self, where: RowCondition, time: TimeRange) -> Uint32s | None:
        """As of `JoinedRows`."""
        by_day = self._found.by_day
        rows, masks = by_day.mask_between(time.start, time.end)
        columns = _ColumnsBetween(self._rows, self._found.order, rows)
        try:
            held = holds(where, columns, None, rows.stop - rows.start, self._rows.check)
        except _TooManyValues:
            return None
        for some, mask in masks:
            held[some] &= mask
        return by_day.users[rows].take(np.flatnonzero(held))


@dataclass(frozen=True, slots=True)
class _InDays:
    """Joined rows day by day, and which of them each is."""

    by_day: RowsByDay
    order: Uint32s
    users_max: int
    """No user is greater."""

    @property
    def nbytes(self) -> int:
        """Memory in bytes, with the counts that are kept once they are asked about."""
        return self.by_day.nbytes + self.order.nbytes + self.users_max * COUNT_BYTES

    @classmethod
    def of_rows(cls, rows: JoinedRows) -> _InDays:
        """All these rows."""
        users = np.concatenate([*rows.users_by_part()])
        times = np.concatenate([part.times() for part in rows.parts])
        by_day, order = RowsByDay.in_order(users, times, max(part.record.peak for part in rows.parts))
        return cls(by_day, order.astype(np.uint32), int(users.max()))


@dataclass(frozen=True, slots=True)
class _ColumnsBetween:
    """The columns of some of the rows that follow each other day by day."""

    rows: JoinedRows
    order: Uint32s
    between: slice

    def column(self, attribute: int, kind: Kind) -> Column | None:
        """The values of an attribute and kind; None when no row has any. Raises _TooManyValues."""
        column = self.rows.column_in(self.order, attribute, kind)
        if column is None or column.positions is None:
            return None if column is None else column.at(self.between)
        first, last = column.positions.searchsorted((self.between.start, self.between.stop)).tolist()
        found = column.at(slice(first, last))
        found.positions = column.positions[first:last] - self.between.start
        return found
