"""Converts a batch of Arrow rows into the engine's user updates by column."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from engine.criteria.model import ConsentState
from engine.event_columns import Rows, TextColumn, ValueColumn
from engine.user_columns import ConsentColumn, UnsetColumn, UserColumns
from engine.values import Kind
from service.arrow.attributes import Attribute
from service.arrow.columns import Converted, Faults, texts_of, times_of
from service.arrow.texts import text_column
from service.arrow.user_layout import ConsentLayout, UserLayout
from service.convert.data import INVALID_VALUE

_STATES: tuple[ConsentState, ...] = (ConsentState.GIVEN, ConsentState.DENIED)
_NO_WRITE, _NO_STATE = -1, -2


def convert_users(batch: pa.RecordBatch, layout: UserLayout) -> Converted[UserColumns]:
    """The batch by columns. Raises InvalidInput for a column of the wrong type."""
    faults = Faults(batch.num_rows)
    times = times_of(batch, layout.time, layout.default_time, layout.grammar)
    faults.add_times(times)
    attributes: list[ValueColumn] = []
    unset_attributes: list[UnsetColumn] = []
    for name in layout.attributes:
        columns, refused = Attribute(name, layout.kinds.get(name), layout.grammar).columns(batch.column(name))
        for fault in refused:
            faults.add_rows(fault)
        attributes += columns
        # A row with a fault is rejected as a whole.
        unset_attributes += _unset(name, [column.rows for column in columns], batch.num_rows, layout)
    identities: list[ValueColumn] = []
    unset_identities: list[UnsetColumn] = []
    for column, identity in sorted(layout.identities.items()):
        found = _identity(identity, text_column(column, batch.column(column)))
        identities += found
        unset_identities += _unset(identity, [each.rows for each in found], batch.num_rows, layout)
    consents = [made for each in layout.consents if (made := _consent(batch, each, faults)) is not None]
    converted = UserColumns(
        user_ids=text_column(layout.user_id, batch.column(layout.user_id)),
        inputs=texts_of(batch, layout.input, layout.default_input),
        time_bytes=times.micros.astype("<i8").tobytes(),
        attributes=attributes,
        unset_attributes=unset_attributes,
        identities=identities,
        unset_identities=unset_identities,
        consents=consents,
    )
    kept = faults.others()
    return Converted(converted if kept is None else converted.take(kept), kept, faults.found)


def _unset(name: str, written: list[Rows | None], count: int, layout: UserLayout) -> list[UnsetColumn]:
    """The rows without a value, if a missing value unsets."""
    if not layout.unset_nulls or any(rows is None for rows in written):
        return []
    unset = np.ones(count, np.bool_)
    for rows in written:
        unset[rows] = False
    return [UnsetColumn.of(name, np.flatnonzero(unset))] if unset.any() else []


def _identity(identity: str, texts: TextColumn) -> list[ValueColumn]:
    """The non-empty strings."""
    has = np.array([bool(entry) for entry in texts.entries] + [False])[texts.codes]
    if not has.any():
        return []
    rows = None if has.all() else np.flatnonzero(has)
    data = texts.codes if rows is None else texts.codes[rows]
    return [ValueColumn.of(identity, Kind.STRING, rows, data, texts.entries)]


def _consent(batch: pa.RecordBatch, layout: ConsentLayout, faults: Faults) -> ConsentColumn | None:
    array = batch.column(layout.column)
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_boolean(value_type):
        array = array.cast(pa.bool_()).cast(pa.string())
    texts = text_column(layout.column, array)
    numbers = {state: number for number, state in enumerate(_STATES)}
    meanings = [
        numbers[layout.states[text]]
        if (text := entry.lower()) in layout.states
        else _NO_STATE
        if entry
        else _NO_WRITE
        for entry in texts.entries
    ]
    codes = np.array([*meanings, _NO_WRITE], np.int64)[texts.codes]
    known = ", ".join(repr(value) for value in sorted(layout.states))
    name = f"consents[{layout.regulation}/{layout.purpose}]"
    faults.add(INVALID_VALUE, name, f"must be one of {known}", codes == _NO_STATE)
    rows = np.flatnonzero(codes >= 0)
    if not len(rows):
        return None
    entries = [state.value for state in _STATES]
    own = None if len(rows) == len(codes) else rows
    return ConsentColumn(
        layout.regulation, layout.purpose, ValueColumn.of("", Kind.STRING, own, codes[rows], entries)
    )
