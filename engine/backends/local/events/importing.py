"""Turns event columns into rows of their tables, without a Python loop over rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.backends.local.events.columns import (
    Column,
    DictionaryColumn,
    Entries,
    NumberColumn,
    TimeColumn,
    joined_codes,
    reordered,
)
from engine.backends.local.events.frame import ColumnKey, RowSet
from engine.backends.local.storage.arrays import Int64s, Ints, Positions, Uint32s, runs, smallest
from engine.backends.local.storage.user_ref import DENSE_MASK, GROUP_SHIFT
from engine.event_columns import EventColumns, Rows
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Value

ColumnValues = tuple[Rows | None, npt.NDArray[Any], list[Value]]
"""Rows that have a value (None = all), the data as in `ValueColumn`, and the entries of its codes."""

PACKED_TABLES_MAX = 1 << 20
"""Combinations of group, input, name and type up to which each gets a counter of its own."""


class ColumnNumbers(NamedTuple):
    """Numbers of a batch's names, by entry or by column."""

    inputs: list[int]
    names: list[int]
    attributes: list[int]


class ArrivedTable(NamedTuple):
    """The table of some rows."""

    group: int
    input_number: int
    name_number: int
    type: int


class ArrivedRows:
    """Rows of any tables in order of arrival, with numbers for names.

    Batches are buffered in this form, so that small ones are cut into tables together.
    """

    def __init__(self, columns: EventColumns, users: RowUsers, numbers: ColumnNumbers, sequence: int) -> None:
        """The first row has the arrival sequence number after `sequence`."""
        self.refs = users.row_refs
        self.times = columns.times
        self.sequence = sequence
        self.table_codes, self.table_entries = _tables_of(columns, self.refs >> GROUP_SHIFT, numbers)
        self.values: dict[ColumnKey, ColumnValues] = {
            (number, column.kind): (column.rows, column.data, column.entries)
            for number, column in zip(numbers.attributes, columns.attributes, strict=True)
        }

    def __len__(self) -> int:
        return len(self.refs)

    def tables(self) -> set[tuple[int, int, int]]:
        """Input, name and group of the tables that have rows here."""
        return {(table.input_number, table.name_number, table.group) for table in self.table_entries}


def _tables_of(
    columns: EventColumns, groups: Int64s, numbers: ColumnNumbers
) -> tuple[Ints, list[ArrivedTable]]:
    """A code for each row, and the table of each code; tables may repeat."""
    kinds = (
        (groups, int(groups.max(initial=0)) + 1),
        (columns.inputs.codes, len(numbers.inputs)),
        (columns.names.codes, len(numbers.names)),
        (columns.types, int(columns.types.max(initial=0)) + 1),
    )
    limits = [limit for _, limit in kinds]
    packed = np.zeros(len(columns), np.int64)
    for codes, limit in kinds:
        packed *= limit
        packed += codes
    if (count := math.prod(limits)) <= PACKED_TABLES_MAX:
        in_use = np.zeros(count, np.bool_)
        in_use[packed] = True
        used = np.flatnonzero(in_use)
        packed = (np.cumsum(in_use) - 1)[packed]
    else:
        used, packed = np.unique(packed, return_inverse=True)
    tables = [
        ArrivedTable(group, numbers.inputs[input_], numbers.names[name], type_)
        for group, input_, name, type_ in zip(
            *(key.tolist() for key in np.unravel_index(used, limits)), strict=True
        )
    ]
    return smallest(packed), tables


class RowUsers:
    """The users of a batch: a user ref for each entry of the user ids, and an entry for each row."""

    def __init__(self, refs: Int64s, codes: Uint32s) -> None:
        self._refs = refs
        self._codes = codes

    @property
    def row_refs(self) -> Int64s:
        return self._refs[self._codes]

    def spans(self, times: Int64s, rows: Rows | None) -> Iterator[tuple[int, Uint32s, Int64s, Int64s]]:
        """The users of some rows (None = all) by group, ascending, with first and last times."""
        codes = self._codes if rows is None else self._codes[rows]
        times = times if rows is None else times[rows]
        first = np.full(len(self._refs), TIME_MAX_MICROS + 1)
        last = np.full(len(self._refs), TIME_MIN_MICROS - 1)
        np.minimum.at(first, codes, times)
        np.maximum.at(last, codes, times)
        used = np.flatnonzero(last >= TIME_MIN_MICROS)
        order = used[np.argsort(self._refs[used])]
        refs, first, last = self._refs[order], first[order], last[order]
        bounds = runs(refs)
        if len(bounds) <= len(refs):
            # Repeated ids and aliases lead several entries to one user.
            starts = bounds[:-1]
            first, last = np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)
            refs = refs[starts]
        groups = refs >> GROUP_SHIFT
        for start, end in itertools.pairwise(runs(groups).tolist()):
            dense = (refs[start:end] & DENSE_MASK).astype(np.uint32)
            yield int(groups[start]), dense, first[start:end], last[start:end]


def sets_of(batches: Sequence[ArrivedRows]) -> Iterator[tuple[ArrivedTable, RowSet]]:
    """The rows of each table, from batches in order of arrival. They keep that order; a table sorts its
    buffered rows at once when it is read or checkpointed.
    """
    codes, tables = joined_codes([(batch.table_codes, batch.table_entries) for batch in batches])
    # Radix sort, as the codes are small.
    order = np.argsort(codes, kind="stable")
    refs = _one([batch.refs for batch in batches])[order]
    users = (refs & DENSE_MASK).astype(np.uint32)
    times = _one([batch.times for batch in batches])[order]
    sequences = _one([batch.sequence + 1 + np.arange(len(batch)) for batch in batches])[order]
    ends = np.cumsum(np.bincount(codes, minlength=len(tables)))
    pieces: list[dict[ColumnKey, Column]] = [{} for _ in tables]
    for key, found in _merged(batches).items():
        for at, piece in _SortedValues(key[1], found, order).pieces(ends):
            pieces[at][key] = piece
    bounds = [0, *ends.tolist()]
    for at, table in enumerate(tables):
        start, end = bounds[at : at + 2]
        yield table, RowSet(users[start:end], times[start:end], sequences[start:end], pieces[at])


def _one(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _merged(batches: Sequence[ArrivedRows]) -> dict[ColumnKey, ColumnValues]:
    """Values of each column over the rows of all batches. Entries are distinct."""
    pieces: dict[ColumnKey, list[tuple[Rows | range, npt.NDArray[Any], list[Value]]]] = {}
    first = 0
    for batch in batches:
        for key, (rows, data, entries) in batch.values.items():
            here = range(first, first + len(batch)) if rows is None else rows + first
            pieces.setdefault(key, []).append((here, data, entries))
        first += len(batch)
    return {key: _joined(key[1], found, first) for key, found in pieces.items()}


def _joined(
    kind: Kind, pieces: Sequence[tuple[Rows | range, npt.NDArray[Any], list[Value]]], count: int
) -> ColumnValues:
    is_full = sum(len(rows) for rows, _, _ in pieces) == count
    positions = None if is_full else np.concatenate([np.asarray(rows) for rows, _, _ in pieces])
    if kind in (Kind.NUMBER, Kind.TIME):
        return positions, _one([data for _, data, _ in pieces]), []
    codes, entries = joined_codes([(codes, entries) for _, codes, entries in pieces])
    return positions, codes, entries


class _SortedValues:
    """Values of a column, with rows ordered by table."""

    def __init__(self, kind: Kind, values: ColumnValues, order: Positions) -> None:
        rows, data, entries = values
        column = _column(kind, data, entries)
        self._positions: Positions | None = None
        if rows is None:
            self._column = column.at(order)
            return
        self._positions, rows_kept = reordered(rows, order)
        self._column = column.at(rows_kept)

    def pieces(self, ends: Int64s) -> Iterator[tuple[int, Column]]:
        """The values of each table that has any, with the table's number. `ends` are the ends of the tables'
        rows.
        """
        starts = np.concatenate([[0], ends[:-1]])
        if self._positions is None:
            firsts, lasts, used = starts, ends, np.arange(len(ends))
        else:
            # A column may have few values, and a batch many columns and tables.
            used = np.unique(np.searchsorted(ends, self._positions, side="right"))
            firsts = np.searchsorted(self._positions, starts[used])
            lasts = np.searchsorted(self._positions, ends[used])
            starts, ends = starts[used], ends[used]
        rows = (used.tolist(), starts.tolist(), ends.tolist(), firsts.tolist(), lasts.tolist())
        for at, start, end, first, last in zip(*rows, strict=True):
            yield at, self._piece(start, end, first, last)

    def _piece(self, start: int, end: int, first: int, last: int) -> Column:
        """The values `first` to `last`, those of the rows `start` to `end`."""
        piece = self._column.at(slice(first, last))
        if self._positions is not None and last - first < end - start:
            piece.positions = self._positions[first:last] - start
        # Pieces share a small dictionary; of a large one each keeps only the entries in use.
        if isinstance(piece, DictionaryColumn) and piece.entries.count > len(piece):
            return piece.trimmed()
        return piece


def _column(kind: Kind, data: npt.NDArray[Any], entries: list[Value]) -> Column:
    if kind is Kind.NUMBER:
        return NumberColumn.of(None, data)
    if kind is Kind.TIME:
        return TimeColumn(None, data)
    return DictionaryColumn(None, data, Entries(kind, len(entries), values=entries))
