"""Frames: rows of events in memory, as columns, sorted by user, time and arrival."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.local.events.arrays import Int64s, Positions, Uint32s, sort_order
from engine.local.events.columns import Column, DictionaryColumn, at_rows, column_of, joined
from engine.local.events.model import EventRow
from engine.values import Kind, kind_of

ColumnKey = tuple[int, Kind]
"""Attribute number and kind."""


@dataclass(slots=True)
class Frame:
    """Rows sorted by (user, time, sequence); the first three arrays have one item a row."""

    users: Uint32s
    times: Int64s
    sequences: Int64s
    columns: dict[ColumnKey, Column]

    def __len__(self) -> int:
        return len(self.users)

    @classmethod
    def of_rows(cls, rows: Sequence[EventRow]) -> Frame:
        """The rows of one table, in any order."""
        count = len(rows)
        users = np.fromiter((row.user for row in rows), np.uint32, count)
        times = np.fromiter((row.time for row in rows), np.int64, count)
        sequences = np.fromiter((row.sequence for row in rows), np.int64, count)
        order = sort_order(users, times, sequences)
        row_of = np.empty(count, np.int64)
        row_of[order] = np.arange(count)
        columns: dict[ColumnKey, Column] = {}
        for (attribute, kind), (places, values) in _attribute_values(rows).items():
            placed = row_of[places]
            sorting = np.argsort(placed)
            column = column_of(kind, None, values).at(sorting)
            column.positions = None if len(values) == count else placed[sorting]
            columns[attribute, kind] = column
        return cls(users[order], times[order], sequences[order], columns)

    @classmethod
    def concatenated(cls, frames: Iterable[Frame]) -> Frame:
        """All rows of several frames."""
        frames = [frame for frame in frames if len(frame)]
        if len(frames) == 1:
            return frames[0]
        if not frames:
            return cls.of_rows(())
        users = np.concatenate([frame.users for frame in frames])
        times = np.concatenate([frame.times for frame in frames])
        sequences = np.concatenate([frame.sequences for frame in frames])
        # Of frames that arrived one after the other, rows with equal times are in order already.
        in_turn = _follow_each_other(frames)
        order = sort_order(users, times) if in_turn else sort_order(users, times, sequences)
        row_of = np.empty(len(order), np.int64)
        row_of[order] = np.arange(len(order))
        pieces: dict[ColumnKey, list[tuple[Positions, Column]]] = {}
        first = 0
        for frame in frames:
            rows = row_of[first : first + len(frame)]
            first += len(frame)
            for key, column in frame.columns.items():
                places = rows if column.positions is None else rows[column.positions]
                pieces.setdefault(key, []).append((places, column))
        columns = {key: _whole_if_full(joined(parts), len(order)) for key, parts in pieces.items()}
        return cls(users[order], times[order], sequences[order], columns)

    def take(self, rows: Positions) -> Frame:
        """Some of the rows, given in ascending order."""
        columns: dict[ColumnKey, Column] = {}
        for key, column in self.columns.items():
            found, taken = at_rows(column, rows)
            if len(taken):
                taken = taken.trimmed() if isinstance(taken, DictionaryColumn) else taken
                taken.positions = found
                columns[key] = _whole_if_full(taken, len(rows))
        return Frame(self.users[rows], self.times[rows], self.sequences[rows], columns)


def _follow_each_other(frames: Sequence[Frame]) -> bool:
    """Whether every row of a frame arrived before every row of the next one."""
    return all(
        int(before.sequences.max()) < int(after.sequences.min())
        for before, after in itertools.pairwise(frames)
    )


def _attribute_values(rows: Sequence[EventRow]) -> dict[ColumnKey, tuple[list[int], list[Any]]]:
    """For each column the places of the rows that have a value, and the values."""
    by_type: dict[tuple[int, type], tuple[list[int], list[Any]]] = {}
    for place, row in enumerate(rows):
        for attribute, value in row.attributes.items():
            found = by_type.get((attribute, value.__class__))
            if found is None:
                found = by_type[attribute, value.__class__] = ([], [])
            found[0].append(place)
            found[1].append(value)
    return {
        (attribute, kind_of(values[0])): found
        for (attribute, _), found in by_type.items()
        if (values := found[1])
    }


def _whole_if_full(column: Column, rows: int) -> Column:
    if len(column) == rows:
        column.positions = None
    return column
