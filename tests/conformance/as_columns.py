"""The embedded backend with events and updates sent by column: the outcome must be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.backends.base import Appended, DataWriter, EventRecord, Record, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.event_columns import EventColumns, TextColumn, ValueColumn
from engine.user_columns import ConsentColumn, UnsetColumn, UserColumns
from engine.values import Kind, Value, kind_of


class ColumnsBackend(LocalBackend):
    """Sends batches of only events, or only updates, by column."""

    def append(self, account: str, records: Sequence[Record], *, request_id: str = "") -> Appended:
        return append_by_column(self, account, records, request_id) or super().append(
            account, records, request_id=request_id
        )


def append_by_column(
    backend: DataWriter, account: str, records: Sequence[Record], request_id: str = ""
) -> Appended | None:
    """Sends a batch of only events, or only updates, by column. None: it is neither, and was not sent."""
    events = [record for record in records if isinstance(record, EventRecord)]
    updates = [record for record in records if isinstance(record, UserRecord)]
    if events and not updates:
        return backend.append_columns(account, columns_of(events), request_id=request_id)
    if updates and not events:
        return backend.append_user_columns(account, user_columns_of(updates), request_id=request_id)
    return None


def columns_of(events: Sequence[EventRecord]) -> EventColumns:
    """The same events by column."""
    values: dict[tuple[str, Kind], dict[int, Value]] = {}
    for row, event in enumerate(events):
        for name, value in event.attributes.items():
            values.setdefault((name, kind_of(value)), {})[row] = value
    event_ids = [event.event_id for event in events]
    return EventColumns(
        user_ids=_texts([event.user_id for event in events]),
        inputs=_texts([event.input for event in events]),
        names=_texts([event.name for event in events]),
        type_bytes=bytes(event.type for event in events),
        time_bytes=np.array([event.time for event in events], "<i8").tobytes(),
        attributes=[_values(name, kind, rows, len(events)) for (name, kind), rows in values.items()],
        event_ids=event_ids if any(event_ids) else None,
    )


def user_columns_of(updates: Sequence[UserRecord]) -> UserColumns:
    """The same updates by column."""
    count = len(updates)
    attributes, unset_attributes = _writes([update.attributes for update in updates])
    identities, unset_identities = _writes([update.identities for update in updates])
    consents: dict[tuple[str, str], dict[int, Value]] = {}
    for row, update in enumerate(updates):
        for name, state in update.consents.items():
            consents.setdefault(name, {})[row] = state.value
    return UserColumns(
        user_ids=_texts([update.user_id for update in updates]),
        inputs=_texts([update.input for update in updates]),
        time_bytes=np.array([update.time for update in updates], "<i8").tobytes(),
        attributes=[_values(name, kind, rows, count) for (name, kind), rows in attributes.items()],
        unset_attributes=unset_attributes,
        identities=[_values(name, kind, rows, count) for (name, kind), rows in identities.items()],
        unset_identities=unset_identities,
        consents=[
            ConsentColumn(*name, _values("", Kind.STRING, rows, count)) for name, rows in consents.items()
        ],
    )


def _writes(
    rows: Sequence[Mapping[str, Value | None]],
) -> tuple[dict[tuple[str, Kind], dict[int, Value]], list[UnsetColumn]]:
    """The values of each name and kind by row, and the rows that unset a name."""
    values: dict[tuple[str, Kind], dict[int, Value]] = {}
    unset: dict[str, list[int]] = {}
    for row, written in enumerate(rows):
        for name, value in written.items():
            if value is None:
                unset.setdefault(name, []).append(row)
            else:
                values.setdefault((name, kind_of(value)), {})[row] = value
    return values, [UnsetColumn.of(name, np.array(found)) for name, found in unset.items()]


def _texts(texts: Sequence[str]) -> TextColumn:
    entries, codes = _coded(texts)
    return TextColumn.of(entries, codes)


def _coded(values: Sequence[Any]) -> tuple[list[Any], np.ndarray[Any, np.dtype[np.int64]]]:
    # The kind of the values of a column is one, so that True and 1.0 do not meet here.
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return list(numbers), np.array([numbers[value] for value in values], np.int64)


def _values(name: str, kind: Kind, values: dict[int, Value], count: int) -> ValueColumn:
    rows = None if len(values) == count else np.array(list(values))
    if kind is Kind.NUMBER:
        return ValueColumn.of(name, kind, rows, np.array(list(values.values()), np.float64))
    if kind is Kind.TIME:
        return ValueColumn.of(name, kind, rows, np.array(list(values.values()), np.int64))
    entries, codes = _coded(list(values.values()))
    return ValueColumn.of(name, kind, rows, codes, entries)
