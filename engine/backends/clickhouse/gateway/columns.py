"""Columns as records. Rows of the cluster are made of records."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.base import EventRecord, UserRecord
from engine.criteria.model import ConsentState, EventType
from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.user_columns import UnsetColumn, UserColumns
from engine.values import Kind, Value


def events_of(columns: EventColumns) -> list[EventRecord]:
    """A record for each row."""
    count = len(columns)
    attributes: list[dict[str, Value]] = [{} for _ in range(count)]
    for column in columns.attributes:
        for row, value in _values(column, count):
            attributes[row][column.name] = value
    types = {int(each): each for each in EventType}
    return [
        EventRecord(user, through, name, types[type_], time, found, event_id)
        for user, through, name, type_, time, found, event_id in zip(
            _texts(columns.user_ids),
            _texts(columns.inputs),
            _texts(columns.names),
            columns.types.tolist(),
            columns.times.tolist(),
            attributes,
            columns.event_ids or [""] * count,
            strict=True,
        )
    ]


def updates_of(columns: UserColumns) -> list[UserRecord]:
    """A record for each row."""
    count = len(columns)
    records = [
        UserRecord(user, through, time, {}, {}, {})
        for user, through, time in zip(
            _texts(columns.user_ids), _texts(columns.inputs), columns.times.tolist(), strict=True
        )
    ]
    for column in columns.attributes:
        for row, value in _values(column, count):
            records[row].attributes[column.name] = value
    for unset in columns.unset_attributes:
        for row in _rows(unset, count):
            records[row].attributes[unset.name] = None
    for identity in columns.identities:
        for row, value in _values(identity, count):
            records[row].identities[identity.name] = str(value)
    for unset in columns.unset_identities:
        for row in _rows(unset, count):
            records[row].identities[unset.name] = None
    for consent in columns.consents:
        for row, value in _values(consent.states, count):
            records[row].consents[consent.regulation, consent.purpose] = ConsentState(str(value))
    return records


def _texts(column: TextColumn) -> Iterator[str]:
    return (column.entries[code] for code in column.codes.tolist())


def _rows(column: UnsetColumn, count: int) -> list[int]:
    rows = column.rows
    return list(range(count)) if rows is None else [int(row) for row in rows]


def _values(column: ValueColumn, count: int) -> Iterator[tuple[int, Value]]:
    """Each row with a value, and the value."""
    own = column.rows
    rows = range(count) if own is None else own.tolist()
    data = column.data.tolist()
    if column.kind in (Kind.NUMBER, Kind.TIME):
        return zip(rows, data, strict=True)
    return ((row, column.entries[code]) for row, code in zip(rows, data, strict=True))
