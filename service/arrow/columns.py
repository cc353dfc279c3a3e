"""Converts a batch of Arrow rows into the engine's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.checks import RowFaults
from engine.criteria.model import EventType
from engine.event_columns import EventColumns, Rows, TextColumn
from engine.user_columns import UserColumns
from engine.values import Micros
from milepost.arrow_types import is_texts
from milepost.grammar import Grammar, Instants
from service.arrow.attributes import Attribute
from service.arrow.layout import Layout, unfit
from service.arrow.texts import coded, text_column, text_rows
from service.arrow.times import instants
from service.convert.data import EVENT_TYPES, INVALID_VALUE, REQUIRED, TIME_MISSING, UNKNOWN_TYPE

TYPE_PREFIX = "EVENT_TYPE_"

_TYPE_NAMES = {member.name: int(member) for member in EventType}
_NO_TYPE = 0


C = TypeVar("C", EventColumns, UserColumns)


@dataclass(frozen=True, slots=True)
class Converted(Generic[C]):
    """The rows of a batch that could be converted. `rows` are their positions in the batch, None = all.
    `faults` refer to positions in the batch too, with at most one per row.
    """

    columns: C
    rows: Rows | None
    faults: list[RowFaults]

    def places(self, rows: Rows) -> Rows:
        """Positions in the batch of rows of `columns`."""
        return rows if self.rows is None else self.rows[rows]


def convert(batch: pa.RecordBatch, layout: Layout) -> Converted[EventColumns]:
    """The batch by columns. Raises InvalidInput for a column of the wrong type."""
    count = batch.num_rows
    times = times_of(batch, layout.time, layout.default_time, layout.grammar)
    faults = Faults(count)
    faults.add(REQUIRED, "time", TIME_MISSING, ~times.has)
    faults.add_times(times)
    types = _types(batch, layout, faults)
    attributes = []
    for name in layout.attributes:
        attribute = Attribute(name, layout.kinds.get(name), layout.grammar)
        columns, refused = attribute.columns(batch.column(name))
        attributes += columns
        for fault in refused:
            faults.add_rows(fault)
    event_ids = None if layout.event_id is None else text_rows(layout.event_id, batch.column(layout.event_id))
    converted = EventColumns(
        user_ids=text_column(layout.user_id, batch.column(layout.user_id)),
        inputs=texts_of(batch, layout.input, layout.default_input),
        names=texts_of(batch, layout.name, layout.default_name),
        type_bytes=types.astype(np.uint8).tobytes(),
        time_bytes=times.micros.astype("<i8").tobytes(),
        attributes=attributes,
        event_ids=event_ids,
    )
    kept = faults.others()
    return Converted(converted if kept is None else converted.take(kept), kept, faults.found)


class Faults:
    """Faults of rows, only the first for each row."""

    def __init__(self, count: int) -> None:
        self._refused = np.zeros(count, np.bool_)
        self.found: list[RowFaults] = []

    def add(self, reason: str, field: str, description: str, bad: npt.NDArray[np.bool_]) -> None:
        if bad.any():
            self.add_rows(RowFaults(reason, field, description, np.flatnonzero(bad)))

    def add_rows(self, fault: RowFaults) -> None:
        rows = fault.rows[~self._refused[fault.rows]]
        if len(rows):
            self._refused[rows] = True
            self.found.append(RowFaults(fault.reason, fault.field, fault.description, rows))

    def add_times(self, times: Instants) -> None:
        """The rows whose time cannot be taken."""
        for description, bad in times.refusals:
            self.add(INVALID_VALUE, "time", description, bad)

    def others(self) -> Rows | None:
        """Rows without a fault; None when all are."""
        return np.flatnonzero(~self._refused) if self.found else None


def times_of(batch: pa.RecordBatch, column: str | None, default: Micros | None, grammar: Grammar) -> Instants:
    """The time of each row; the default for rows without one."""
    if column is None:
        times = instants("", pa.nulls(batch.num_rows), grammar)
    else:
        times = instants(column, batch.column(column), grammar)
    if default is None:
        return times
    micros = np.where(times.has, times.micros, default)
    return Instants(micros, np.ones_like(times.has), times.has & times.bad, times.has & times.inexact)


def texts_of(batch: pa.RecordBatch, column: str | None, default: str) -> TextColumn:
    """The strings of a column; `default` for rows without one."""
    if column is None:
        return TextColumn.same(default, batch.num_rows)
    return text_column(column, batch.column(column), default)


def _types(batch: pa.RecordBatch, layout: Layout, faults: Faults) -> npt.NDArray[np.int64]:
    """The number of the type of each row."""
    if layout.type is None:
        return np.full(batch.num_rows, layout.default_type, np.int64)
    array = batch.column(layout.type)
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if not (is_texts(value_type) or pa.types.is_integer(value_type) or pa.types.is_null(value_type)):
        raise unfit(layout.type, array.type, "the names or the numbers of event types")
    entries, codes = coded(array)
    # The last entry is for rows without a type, whose code is -1.
    numbers = np.array([_type_of(entry, layout) for entry in entries] + [layout.default_type], np.int64)
    types = numbers[codes]
    faults.add(INVALID_VALUE, "type", UNKNOWN_TYPE, types == _NO_TYPE)
    return types


def _type_of(entry: str | int, layout: Layout) -> int:
    if isinstance(entry, str):
        named = _TYPE_NAMES.get(entry.upper().removeprefix(TYPE_PREFIX))
        if named is not None:
            return named
        # Files of texts have the numbers too.
        if entry and not (entry.isascii() and entry.isdecimal()):
            return _NO_TYPE
    number = int(entry or 0)
    return EVENT_TYPES.get(number, _NO_TYPE) if number else layout.default_type
