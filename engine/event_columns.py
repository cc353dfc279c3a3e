"""Events as columns, for bulk import: the form of a batch at the boundary and in the log.

A batch of events row by row costs tens of microseconds an event in Python; by column it costs one or two.
Repeated strings are a dictionary of entries and a code for each row, so any work on a string (a check, a
number, a lookup) is done once per entry.

All arrays are little-endian bytes, so the structs can be logged unchanged; the properties return them as
numpy arrays without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from engine.values import Kind, Value

Codes: TypeAlias = npt.NDArray[np.uint32]
Rows: TypeAlias = npt.NDArray[np.int64]
"""Positions of rows in a batch, ascending, from 0."""

_CODE = np.dtype("<u4")
_DATA_TYPES = {Kind.NUMBER: np.dtype("<f8"), Kind.TIME: np.dtype("<i8")}


class TextColumn(msgspec.Struct, frozen=True, array_like=True):
    """A string for each row: `entries[codes[row]]`. Entries may repeat."""

    entries: list[str]
    code_bytes: bytes

    @classmethod
    def of(cls, entries: Sequence[str], codes: npt.NDArray[np.integer[Any]]) -> TextColumn:
        return cls(list(entries), codes.astype(_CODE, copy=False).tobytes())

    @classmethod
    def same(cls, text: str, count: int) -> TextColumn:
        """The same string for every row."""
        return cls([text], bytes(_CODE.itemsize * count))

    @property
    def codes(self) -> Codes:
        return np.frombuffer(self.code_bytes, _CODE)

    def take(self, rows: Rows) -> TextColumn:
        """Some of the rows, without unused entries."""
        return TextColumn(self.entries, self.codes[rows].tobytes()).trimmed()

    def trimmed(self) -> TextColumn:
        """The same strings without unused entries."""
        in_use = np.zeros(len(self.entries), np.bool_)
        in_use[self.codes] = True
        if in_use.all():
            return self
        entries = [self.entries[code] for code in np.flatnonzero(in_use).tolist()]
        return TextColumn.of(entries, (np.cumsum(in_use) - 1)[self.codes])


class ValueColumn(msgspec.Struct, frozen=True, array_like=True):
    """The values of one attribute that are of one kind.

    `data` has an item for each row that has a value: doubles for numbers, microseconds for times, otherwise
    codes of `entries`, which may repeat. `row_bytes` are those rows as u32, None when all rows have one.
    """

    name: str
    kind: Kind
    row_bytes: bytes | None
    data_bytes: bytes
    entries: list[Value] = []

    @classmethod
    def of(
        cls,
        name: str,
        kind: Kind,
        rows: Rows | None,
        data: npt.NDArray[Any],
        entries: Sequence[Value] = (),
    ) -> ValueColumn:
        row_bytes = None if rows is None else rows.astype(_CODE).tobytes()
        data_bytes = data.astype(_DATA_TYPES.get(kind, _CODE), copy=False).tobytes()
        return cls(name, kind, row_bytes, data_bytes, list(entries))

    @property
    def rows(self) -> Rows | None:
        return None if self.row_bytes is None else np.frombuffer(self.row_bytes, _CODE).astype(np.int64)

    @property
    def data(self) -> npt.NDArray[Any]:
        return np.frombuffer(self.data_bytes, _DATA_TYPES.get(self.kind, _CODE))

    def take(self, rows: Rows, count: int) -> ValueColumn:
        """The values of some of the `count` rows."""
        own = self.rows
        if own is None:
            return ValueColumn.of(self.name, self.kind, None, self.data[rows], self.entries)
        place = np.full(count, -1, np.int64)
        place[own] = np.arange(len(own))
        found = place[rows]
        kept = np.flatnonzero(found >= 0)
        return ValueColumn.of(self.name, self.kind, kept, self.data[found[kept]], self.entries)


class EventColumns(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A batch of events by column. `event_ids` is None when no row has one, "" in rows without one."""

    user_ids: TextColumn
    inputs: TextColumn
    names: TextColumn
    type_bytes: bytes
    """An `EventType` for each row, one byte each."""
    time_bytes: bytes
    """The time of each row, i64 microseconds."""
    attributes: list[ValueColumn]
    """An attribute has one column for each kind of its values; a row has a value in at most one of them."""
    event_ids: list[str] | None = None

    def __len__(self) -> int:
        return len(self.type_bytes)

    @property
    def times(self) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.time_bytes, "<i8")

    @property
    def types(self) -> npt.NDArray[np.uint8]:
        return np.frombuffer(self.type_bytes, np.uint8)

    def trimmed(self) -> EventColumns:
        """The same rows without unused user ids, inputs and names, as a backend expects them."""
        return msgspec.structs.replace(
            self,
            user_ids=self.user_ids.trimmed(),
            inputs=self.inputs.trimmed(),
            names=self.names.trimmed(),
        )

    def take(self, rows: Rows) -> EventColumns:
        """Some of the rows, trimmed."""
        count = len(self)
        columns = (column.take(rows, count) for column in self.attributes)
        return EventColumns(
            user_ids=self.user_ids.take(rows),
            inputs=self.inputs.take(rows),
            names=self.names.take(rows),
            type_bytes=self.types[rows].tobytes(),
            time_bytes=self.times[rows].tobytes(),
            attributes=[column for column in columns if column.data_bytes],
            event_ids=None if self.event_ids is None else [self.event_ids[row] for row in rows.tolist()],
        )
