"""From events that come as columns to the frames of their tables: one sort, no Python for a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.event_columns import EventColumns, Rows
from engine.local.directory import DENSE_MASK, PLACE_SHIFT
from engine.local.events.arrays import Int64s, Positions, Uint32s, runs, smallest, sort_order
from engine.local.events.columns import (
    Column,
    DictionaryColumn,
    Entries,
    NumberColumn,
    TimeColumn,
    joined_codes,
)
from engine.local.events.decimals import scaled
from engine.local.events.frame import ColumnKey, Frame
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Value

ColumnValues = tuple[Rows | None, npt.NDArray[Any], list[Value]]
"""Which rows have a value (None = all), the data as in `ValueColumn`, and the entries of its codes."""


class ColumnNumbers(NamedTuple):
    """The numbers of a batch's names, by entry or by column."""

    inputs: list[int]
    names: list[int]
    attributes: list[int]


class ArrivedRows:
    """Rows of any tables, in the order of arrival, with numbers in place of names.

    Batches wait in this form, so that small ones are cut into tables together.
    """

    def __init__(self, columns: EventColumns, users: RowUsers, numbers: ColumnNumbers, sequence: int) -> None:
        """The first row has the arrival sequence number after `sequence`."""
        self.places = users.row_places
        self.inputs = np.array(numbers.inputs, np.uint32)[columns.inputs.codes]
        self.names = np.array(numbers.names, np.uint32)[columns.names.codes]
        self.types = columns.types
        self.times = columns.times
        self.sequences = sequence + 1 + np.arange(len(columns))
        self.values: dict[ColumnKey, ColumnValues] = {
            (number, column.kind): (column.rows, column.data, column.entries)
            for number, column in zip(numbers.attributes, columns.attributes, strict=True)
        }

    def __len__(self) -> int:
        return len(self.places)

    def tables(self) -> set[tuple[int, int, int]]:
        """Input, name and group of the tables that have rows here."""
        packed = self.inputs.astype(np.int64) << 32 | self.names
        groups = self.places >> PLACE_SHIFT
        return {
            (int(found) >> 32, int(found) & 0xFFFF_FFFF, int(group))
            for found in np.unique(packed)
            for group in np.unique(groups[packed == found])
        }


class TableFrame(NamedTuple):
    """Rows for one table."""

    group: int
    input_number: int
    name_number: int
    type: int
    frame: Frame


class RowUsers:
    """Whose the rows of a batch are: a place for each entry of the user ids, and an entry for each row."""

    def __init__(self, places: Int64s, codes: Uint32s) -> None:
        self._places = places
        self._codes = codes

    @property
    def row_places(self) -> Int64s:
        return self._places[self._codes]

    def spans(self, times: Int64s, rows: Rows | None) -> Iterator[tuple[int, Uint32s, Int64s, Int64s]]:
        """By group the users of some rows (None = all), ascending, and their first and last times."""
        codes = self._codes if rows is None else self._codes[rows]
        times = times if rows is None else times[rows]
        first = np.full(len(self._places), TIME_MAX_MICROS + 1)
        last = np.full(len(self._places), TIME_MIN_MICROS - 1)
        np.minimum.at(first, codes, times)
        np.maximum.at(last, codes, times)
        used = np.flatnonzero(last >= TIME_MIN_MICROS)
        order = used[np.argsort(self._places[used])]
        places, first, last = self._places[order], first[order], last[order]
        bounds = runs(places)
        if len(bounds) <= len(places):
            # Several entries lead to one user: ids that repeat, or aliases.
            starts = bounds[:-1]
            first, last = np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)
            places = places[starts]
        groups = places >> PLACE_SHIFT
        for start, end in itertools.pairwise(runs(groups).tolist()):
            dense = (places[start:end] & DENSE_MASK).astype(np.uint32)
            yield int(groups[start]), dense, first[start:end], last[start:end]


def frames_of(batches: Sequence[ArrivedRows]) -> Iterator[TableFrame]:
    """The rows of each table, of batches that arrived one after the other."""
    places = np.concatenate([batch.places for batch in batches])
    times = np.concatenate([batch.times for batch in batches])
    sequences = np.concatenate([batch.sequences for batch in batches])
    inputs = np.concatenate([batch.inputs for batch in batches])
    names = np.concatenate([batch.names for batch in batches])
    types = np.concatenate([batch.types for batch in batches])
    groups = places >> PLACE_SHIFT
    order = sort_order(groups, inputs, names, types, places & DENSE_MASK, times)
    places, times, sequences = places[order], times[order], sequences[order]
    tables = [key[order] for key in (groups, inputs, names, types)]
    columns = {key: _SortedValues(key[1], found, order) for key, found in _merged(batches).items()}
    starts = np.flatnonzero(np.logical_or.reduce([key[1:] != key[:-1] for key in tables])) + 1
    for start, end in itertools.pairwise([0, *starts.tolist(), len(order)]):
        pieces = {
            key: piece for key, column in columns.items() if (piece := column.piece(start, end)) is not None
        }
        frame = Frame(
            users=(places[start:end] & DENSE_MASK).astype(np.uint32),
            times=times[start:end],
            sequences=sequences[start:end],
            columns=pieces,
        )
        group, input_number, name_number, type_ = (int(key[start]) for key in tables)
        yield TableFrame(group, input_number, name_number, type_, frame)


def _merged(batches: Sequence[ArrivedRows]) -> dict[ColumnKey, ColumnValues]:
    """The values of each column over the rows of all batches."""
    pieces: dict[ColumnKey, list[tuple[Rows, npt.NDArray[Any], list[Value]]]] = {}
    first = 0
    for batch in batches:
        for key, (rows, data, entries) in batch.values.items():
            here = np.arange(first, first + len(batch)) if rows is None else rows + first
            pieces.setdefault(key, []).append((here, data, entries))
        first += len(batch)
    return {key: _joined(key[1], found, first) for key, found in pieces.items()}


def _joined(
    kind: Kind, pieces: Sequence[tuple[Rows, npt.NDArray[Any], list[Value]]], count: int
) -> ColumnValues:
    rows = np.concatenate([rows for rows, _, _ in pieces])
    positions = None if len(rows) == count else rows
    if kind in (Kind.NUMBER, Kind.TIME):
        return positions, np.concatenate([data for _, data, _ in pieces]), []
    # Entries of one batch may repeat; those of a column must not.
    codes, entries = joined_codes([(codes, entries) for _, codes, entries in pieces])
    return positions, codes, entries


class _SortedValues:
    """The values of a column in the order of the sorted rows."""

    def __init__(self, kind: Kind, values: ColumnValues, order: Positions) -> None:
        rows, data, self._entries = values
        self._kind = kind
        self._has: npt.NDArray[np.bool_] | None = None
        self._exponent: int | None = None
        if kind is Kind.NUMBER and (found := scaled(data)) is not None:
            data, self._exponent = found
        if rows is None:
            self._data = data[order]
            return
        has = np.zeros(len(order), np.bool_)
        has[rows] = True
        spread = np.zeros(len(order), data.dtype)
        spread[rows] = data
        self._has, self._data = has[order], spread[order]

    def piece(self, start: int, end: int) -> Column | None:
        """The values of the rows from start to end; None when they have none."""
        data = self._data[start:end]
        positions: Positions | None = None
        if self._has is not None:
            positions = np.flatnonzero(self._has[start:end])
            if not len(positions):
                return None
            if len(positions) == end - start:
                positions = None
            else:
                data = data[positions]
        if self._kind is Kind.TIME:
            return TimeColumn(positions, data)
        if self._kind is not Kind.NUMBER:
            entries = Entries(self._kind, len(self._entries), values=self._entries)
            return DictionaryColumn(positions, data, entries).trimmed()
        if self._exponent is None:
            return NumberColumn.of(positions, data)
        return NumberColumn(positions, smallest(data), self._exponent, None)
