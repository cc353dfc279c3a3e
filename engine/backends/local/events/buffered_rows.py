"""Rows of a table that are in no part yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from engine.backends.local.events.frame import RowSet
from engine.backends.local.events.model import EventRow
from engine.backends.local.storage.arrays import Uint32s
from engine.values import Micros


class Wanted(NamedTuple):
    """Users whose rows are looked for: sorted, and as a set."""

    ids: Uint32s
    among: frozenset[int]

    @staticmethod
    def of(users: Uint32s) -> Wanted:
        """These users, sorted."""
        return Wanted(users, frozenset(users.tolist()))


class BufferedRows:
    """Rows as they came: as objects, and as columns."""

    __slots__ = ("rows", "sets")

    def __init__(self) -> None:
        self.rows: list[EventRow] = []
        self.sets: list[RowSet] = []

    def __len__(self) -> int:
        return len(self.rows) + sum(map(len, self.sets))

    def pack(self) -> None:
        """Turns objects into columns."""
        if self.rows:
            self.sets.append(RowSet.of_rows(self.rows))
            self.rows.clear()

    def take(self, others: BufferedRows) -> None:
        """Takes the rows of another buffer, which is not used any more."""
        self.rows += others.rows
        self.sets += others.sets

    def taken(self) -> list[RowSet]:
        """All rows, as columns. The buffer is not used any more."""
        self.pack()
        return self.sets

    def has_any(self, users: Wanted) -> bool:
        """Whether any row is of one of the users."""
        return not users.among.isdisjoint(row.user for row in self.rows) or any(
            np.isin(rows.users, users.ids).any() for rows in self.sets
        )

    def has_before(self, instant: Micros) -> bool:
        """Whether any row is from before the instant."""
        return any(row.time < instant for row in self.rows) or any(
            (rows.times < instant).any() for rows in self.sets
        )

    def users_and_times(self) -> Iterator[tuple[int, Micros]]:
        """The user and the time of each row."""
        for row in self.rows:
            yield row.user, row.time
        for rows in self.sets:
            yield from zip(rows.users.tolist(), rows.times.tolist(), strict=True)
