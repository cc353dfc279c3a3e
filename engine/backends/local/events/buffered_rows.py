"""Rows of a table that are in no part yet."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.local.events.frame import RowSet
from engine.backends.local.events.model import EventRow
from engine.values import Micros


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

    def users_and_times(self) -> Iterator[tuple[int, Micros]]:
        """The user and the time of each row."""
        for row in self.rows:
            yield row.user, row.time
        for rows in self.sets:
            yield from zip(rows.users.tolist(), rows.times.tolist(), strict=True)
