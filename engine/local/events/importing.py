"""From events that come as columns to the frames of their tables: one sort, no Python for a row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from engine.event_columns import EventColumns, Rows, ValueColumn
from engine.local.directory import DENSE_MASK, PLACE_SHIFT
from engine.local.events.arrays import Int64s, Positions, Uint32s, runs, smallest, sort_order
from engine.local.events.columns import Column, DictionaryColumn, Entries, NumberColumn, TimeColumn
from engine.local.events.decimals import scaled
from engine.local.events.frame import ColumnKey, Frame
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind

_TYPE_BITS = 3
"""Types of events are numbers below 8."""


class ColumnNumbers(NamedTuple):
    """The numbers of a batch's names, by entry or by column."""

    inputs: list[int]
    names: list[int]
    attributes: list[int]


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


def frames_of(
    columns: EventColumns, users: RowUsers, numbers: ColumnNumbers, sequence: int
) -> Iterator[TableFrame]:
    """The rows of each table. The first row has the arrival sequence number after `sequence`."""
    places = users.row_places
    # A table is a group, an input, a name and a type, numbered here by their codes.
    inputs = columns.inputs.codes.astype(np.int64)
    names = columns.names.codes.astype(np.int64)
    tables = ((places >> PLACE_SHIFT) * len(numbers.inputs) + inputs) * len(numbers.names) + names
    tables = tables << _TYPE_BITS | columns.types
    order = sort_order(tables, places & DENSE_MASK, columns.times)
    sorted_tables, sorted_places, sorted_times = tables[order], places[order], columns.times[order]
    values = [_SortedValues(column, order) for column in columns.attributes]
    bounds = runs(sorted_tables).tolist()
    for start, end in itertools.pairwise(bounds):
        first = int(order[start])
        pieces: dict[ColumnKey, Column] = {}
        for attribute, column in zip(numbers.attributes, values, strict=True):
            piece = column.piece(start, end)
            if piece is not None:
                pieces[attribute, column.kind] = piece
        frame = Frame(
            users=(sorted_places[start:end] & DENSE_MASK).astype(np.uint32),
            times=sorted_times[start:end],
            sequences=order[start:end] + (sequence + 1),
            columns=pieces,
        )
        yield TableFrame(
            int(sorted_places[start]) >> PLACE_SHIFT,
            numbers.inputs[int(inputs[first])],
            numbers.names[int(names[first])],
            int(columns.types[first]),
            frame,
        )


class _SortedValues:
    """The values of an attribute in the order of the sorted rows."""

    def __init__(self, column: ValueColumn, order: Positions) -> None:
        self.kind = column.kind
        self._entries = column.entries
        self._has: npt.NDArray[np.bool_] | None = None
        data: npt.NDArray[Any] = column.data
        self._exponent: int | None = None
        if self.kind is Kind.NUMBER and (found := scaled(data)) is not None:
            data, self._exponent = found
        rows = column.rows
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
        if self.kind is Kind.TIME:
            return TimeColumn(positions, data)
        if self.kind is not Kind.NUMBER:
            entries = Entries(self.kind, len(self._entries), values=self._entries)
            return DictionaryColumn(positions, data, entries).trimmed()
        if self._exponent is None:
            return NumberColumn.of(positions, data)
        return NumberColumn(positions, smallest(data), self._exponent, None)
