"""Event rows in memory, as columns: unordered sets, and frames sorted by user, time and arrival."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.backends.local.events.columns import Column, DictionaryColumn, at_rows, column_of, joined
from engine.backends.local.events.model import EventRow
from engine.backends.local.storage.arrays import Int64s, Positions, Uint32s, sort_order
from engine.values import Kind, kind_of

ColumnKey = tuple[int, Kind]
"""Attribute number and kind."""

_NO_USERS = np.zeros(0, np.uint32)
_NO_TIMES = _NO_SEQUENCES = np.zeros(0, np.int64)


@dataclass(slots=True)
class RowSet:
    """Rows of one table, in any order. The first three arrays have one item per row."""

    users: Uint32s
    times: Int64s
    sequences: Int64s
    columns: dict[ColumnKey, Column]

    def __len__(self) -> int:
        return len(self.users)

    @staticmethod
    def of_rows(rows: Sequence[EventRow]) -> RowSet:
        """The rows of one table."""
        count = len(rows)
        return RowSet(
            users=np.fromiter((row.user for row in rows), np.uint32, count),
            times=np.fromiter((row.time for row in rows), np.int64, count),
            sequences=np.fromiter((row.sequence for row in rows), np.int64, count),
            columns={
                (attribute, kind): column_of(
                    kind, None if len(values) == count else np.array(positions, np.int64), values
                )
                for (attribute, kind), (positions, values) in _attribute_values(rows).items()
            },
        )


class Frame(RowSet):
    """Rows sorted by (user, time, sequence)."""

    __slots__ = ()

    @classmethod
    def of_sets(cls, sets: Sequence[RowSet]) -> Frame:
        """All rows of several sets. Unused dictionary entries are dropped."""
        sequences = np.concatenate([_NO_SEQUENCES, *(piece.sequences for piece in sets)])
        frame = cls._joined(sets, in_turn=bool((sequences[1:] > sequences[:-1]).all()))
        for key, column in frame.columns.items():
            if isinstance(column, DictionaryColumn):
                frame.columns[key] = column.trimmed()
        return frame

    @classmethod
    def concatenated(cls, frames: Iterable[Frame]) -> Frame:
        """All rows of several frames."""
        frames = [frame for frame in frames if len(frame)]
        if len(frames) == 1:
            return frames[0]
        spans = [(int(frame.sequences.min()), int(frame.sequences.max())) for frame in frames]
        arrived = sorted(range(len(frames)), key=spans.__getitem__)
        in_turn = all(spans[before][1] < spans[after][0] for before, after in itertools.pairwise(arrived))
        return cls._joined([frames[position] for position in arrived], in_turn=in_turn)

    @classmethod
    def _joined(cls, pieces: Sequence[RowSet], *, in_turn: bool) -> Frame:
        """All rows. `in_turn`: rows with equal user and time already come in order of arrival."""
        users = np.concatenate([_NO_USERS, *(piece.users for piece in pieces)])
        times = np.concatenate([_NO_TIMES, *(piece.times for piece in pieces)])
        sequences = np.concatenate([_NO_SEQUENCES, *(piece.sequences for piece in pieces)])
        order = sort_order(users, times) if in_turn else sort_order(users, times, sequences)
        parts: dict[ColumnKey, list[tuple[int, int, Column]]] = {}
        first = 0
        for piece in pieces:
            for key, column in piece.columns.items():
                parts.setdefault(key, []).append((first, len(piece), column))
            first += len(piece)
        columns = {key: joined(found, order) for key, found in parts.items()}
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


def _attribute_values(rows: Sequence[EventRow]) -> dict[ColumnKey, tuple[list[int], list[Any]]]:
    """For each column the positions of rows that have a value, and the values."""
    by_type: dict[tuple[int, type], tuple[list[int], list[Any]]] = {}
    for position, row in enumerate(rows):
        for attribute, value in row.attributes.items():
            found = by_type.get((attribute, value.__class__))
            if found is None:
                found = by_type[attribute, value.__class__] = ([], [])
            found[0].append(position)
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
