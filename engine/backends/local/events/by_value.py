"""Rows by value: the users of the rows that have each value of an attribute.

A condition on one attribute with few distinct values is decided once for each value. What is kept for it is
the user of every row, in order of the value, so that a question reads the rows of the values that pass and no
others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.backends.local.events.columns import DictionaryColumn, joined_codes
from engine.backends.local.events.model import RowCondition
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.storage.arrays import Int64s, Ints, Uint32s
from engine.backends.local.storage.matching import passing_values
from engine.criteria.conditions import WhereAttribute
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
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
    are_too_many: bool = False

    @property
    def nbytes(self) -> int:
        return self.users.nbytes + self.offsets.nbytes + _VALUE_BYTES_GUESS * len(self.values)

    @classmethod
    def of_parts(
        cls, parts: Sequence[Part], attribute: int, kind: Kind, check: Callable[[], None]
    ) -> RowsByValue:
        """All live rows of stored parts that have a value of the kind, cached until a part changes."""
        tag = ("rows by value", attribute, kind)
        return derived_of_all(parts, tag, lambda: cls._joined(parts, attribute, kind, check))

    @classmethod
    def _joined(
        cls, parts: Sequence[Part], attribute: int, kind: Kind, check: Callable[[], None]
    ) -> RowsByValue:
        users: list[Uint32s] = []
        coded: list[tuple[Ints, list[Value]]] = []
        for part in parts:
            check()
            column = part.column(attribute, kind)
            if not isinstance(column, DictionaryColumn):
                continue
            if column.entries.count * ROWS_PER_VALUE_MIN > len(column):
                return cls([], _NO_USERS, _NO_ROWS, are_too_many=True)
            row_users, codes = part.row_users(), column.codes
            if column.positions is not None:
                row_users = row_users[column.positions]
            live = part.live_rows()
            if live is not None:
                kept = live if column.positions is None else live[column.positions]
                row_users, codes = row_users[kept], codes[kept]
            users.append(row_users)
            coded.append((codes, column.entries.values))
        if not coded:
            return cls([], _NO_USERS, _NO_ROWS)
        codes, values = joined_codes(coded)
        order = np.argsort(codes, kind="stable")
        offsets = np.concatenate((_NO_ROWS, np.cumsum(np.bincount(codes, minlength=len(values)))))
        return cls(values, np.concatenate(users)[order], offsets)

    def users_passing(self, matcher: Matcher, check: Callable[[], None]) -> Uint32s:
        """The user of each row whose value passes; a user comes once for each such row."""
        codes = np.flatnonzero(passing_values(matcher, self.values, check)).tolist()
        pieces = [self.users[self.offsets[code] : self.offsets[code + 1]] for code in codes]
        return pieces[0] if len(pieces) == 1 else np.concatenate((_NO_USERS, *pieces))


def is_by_value(where: RowCondition | None) -> bool:
    """Whether the condition is a test of one attribute that numbers and times do not pass."""
    return isinstance(where, WhereAttribute) and matcher_of(where.test).kinds.isdisjoint(_COLUMN_KINDS)


def users_by_value(
    parts: Sequence[Part], where: WhereAttribute[int, ResolvedTest], check: Callable[[], None]
) -> list[Uint32s] | None:
    """The users of the rows of stored parts that pass, once for each row; None: there are too many values."""
    matcher = matcher_of(where.test)
    found = []
    for kind in matcher.kinds:
        rows = RowsByValue.of_parts(parts, where.key, kind, check)
        if rows.are_too_many:
            return None
        found.append(rows.users_passing(matcher, check))
    return found


_NO_USERS: Uint32s = np.zeros(0, np.uint32)
_NO_ROWS: Int64s = np.zeros(1, np.int64)
