"""Rows by value: the users of the rows that have each value of an attribute.

A condition on one attribute with few distinct values is decided once for each value. What is kept for it is
the user of every row, in order of the value, so that a question reads the rows of the values that pass and no
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from engine.backends.local.events.columns import DictionaryColumn, integers_between
from engine.backends.local.events.model import RowCondition
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.storage.arrays import Int64s, Positions, Uint32s, ranges
from engine.backends.local.storage.matching import passing_values
from engine.criteria.conditions import WhereAttribute
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
from engine.criteria.ranges import TimeRange
from engine.values import Kind, Value

ROWS_PER_VALUE_MIN = 16
"""Rows for each distinct value, on average, below which conditions are decided row by row."""

_COLUMN_KINDS = frozenset({Kind.NUMBER, Kind.TIME})
_VALUE_BYTES_GUESS = 80


@dataclass(frozen=True, slots=True)
class RowsByValue:
    """The user of each row, row after row of each value; no values when there are too many of them."""

    values: list[Value]
    users: Uint32s
    offsets: Int64s
    """Where the rows of each value start, followed by the number of rows."""
    times: Int64s | None = None
    """The time of each row, where it is asked about."""
    are_too_many: bool = False

    @property
    def nbytes(self) -> int:
        times = 0 if self.times is None else self.times.nbytes
        return self.users.nbytes + times + self.offsets.nbytes + _VALUE_BYTES_GUESS * len(self.values)

    @classmethod
    def of_parts(
        cls,
        parts: Sequence[Part],
        attribute: int,
        kind: Kind,
        check: Callable[[], None],
        firsts: Sequence[int] | None = None,
        *,
        with_times: bool = False,
    ) -> RowsByValue:
        """All live rows of stored parts that have a value of the kind, cached until a part changes. `firsts`:
        for each part what is added to its dense ids; None: nothing.
        """
        tag = ("rows by value", attribute, kind, None if firsts is None else tuple(firsts), with_times)
        return derived_of_all(
            parts, tag, lambda: cls._joined(parts, attribute, kind, check, firsts, with_times)
        )

    @classmethod
    def _joined(
        cls,
        parts: Sequence[Part],
        attribute: int,
        kind: Kind,
        check: Callable[[], None],
        firsts: Sequence[int] | None,
        with_times: bool,
    ) -> RowsByValue:
        numbers: dict[Value, int] = {}
        pieces: list[_Piece] = []
        for at, part in enumerate(parts):
            check()
            column = part.column(attribute, kind)
            if not isinstance(column, DictionaryColumn):
                continue
            if column.entries.count * ROWS_PER_VALUE_MIN > len(column):
                return cls([], _NO_USERS, _NO_ROWS, are_too_many=True)
            users = part.row_users() if firsts is None else part.row_users_from(firsts[at])
            own = [numbers.setdefault(value, len(numbers)) for value in column.entries.values]
            pieces.append(_Piece.of_column(part, column, users, np.array(own, np.int64), with_times))
        if not pieces:
            return cls([], _NO_USERS, _NO_ROWS)
        rows_of_values = np.zeros(len(numbers), np.int64)
        for piece in pieces:
            rows_of_values[piece.values] += piece.counts
        offsets = np.concatenate((_NO_ROWS, np.cumsum(rows_of_values)))
        joined = np.empty(int(offsets[-1]), np.uint32)
        times = np.empty(len(joined), np.int64) if with_times else None
        places = offsets[:-1].copy()
        for piece in pieces:
            check()
            rows = ranges(places[piece.values], piece.counts)
            joined[rows] = piece.users
            if times is not None and piece.times is not None:
                times[rows] = piece.times
            places[piece.values] += piece.counts
        return cls(list(numbers), joined, offsets, times)

    def users_passing(
        self, matcher: Matcher, check: Callable[[], None], time: TimeRange | None = None
    ) -> Uint32s:
        """The user of each row whose value passes, and which lies in a range of time (None = any); a user
        comes once for each such row.
        """
        codes = np.flatnonzero(passing_values(matcher, self.values, check)).tolist()
        rows = [slice(self.offsets[code], self.offsets[code + 1]) for code in codes]
        pieces = [self.users[some] for some in rows]
        if time is not None and self.times is not None:
            last = None if time.end is None else time.end - 1
            masks = [integers_between(self.times[some], time.start, last) for some in rows]
            pieces = [users.take(np.flatnonzero(mask)) for users, mask in zip(pieces, masks, strict=True)]
        return pieces[0] if len(pieces) == 1 else np.concatenate((_NO_USERS, *pieces))


class _Piece(NamedTuple):
    """The rows of a part that have a value: their users and times, in order of the value; the values, by
    number; and how many rows have each.
    """

    users: Uint32s
    times: Int64s | None
    values: Int64s
    counts: Int64s

    @classmethod
    def of_column(
        cls, part: Part, column: DictionaryColumn, users: Uint32s, values: Int64s, with_times: bool
    ) -> _Piece:
        """`users`: of each row of the part. `values`: the number of each entry of the column."""
        codes, positions, live = column.codes, column.positions, part.live_rows()
        if live is not None:
            kept = np.flatnonzero(live if positions is None else live[positions])
            codes, positions = codes[kept], kept if positions is None else positions[kept]
        # Part by part: all of these do not fit into the processor's caches.
        order: Positions = np.argsort(codes, kind="stable")
        rows = order if positions is None else positions[order]
        times = part.times().take(rows) if with_times else None
        return cls(users.take(rows), times, values, np.bincount(codes, minlength=len(values)))


def is_by_value(where: RowCondition | None) -> bool:
    """Whether the condition is a test of one attribute that numbers and times do not pass."""
    return isinstance(where, WhereAttribute) and matcher_of(where.test).kinds.isdisjoint(_COLUMN_KINDS)


def users_by_value(
    parts: Sequence[Part],
    where: WhereAttribute[int, ResolvedTest],
    check: Callable[[], None],
    firsts: Sequence[int] | None = None,
    time: TimeRange | None = None,
) -> list[Uint32s] | None:
    """The users of the rows of stored parts that pass, once for each row; None: there are too many values.
    `firsts` as for `RowsByValue.of_parts`. `time`: the range of time that rows must lie in; None: any.
    """
    matcher = matcher_of(where.test)
    found = []
    for kind in matcher.kinds:
        rows = RowsByValue.of_parts(parts, where.key, kind, check, firsts, with_times=time is not None)
        if rows.are_too_many:
            return None
        found.append(rows.users_passing(matcher, check, time))
    return found


_NO_USERS: Uint32s = np.zeros(0, np.uint32)
_NO_ROWS: Int64s = np.zeros(1, np.int64)
