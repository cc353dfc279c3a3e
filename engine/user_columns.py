"""User updates as columns, for bulk import: the form of a batch at the boundary and in the log.

The counterpart of `event_columns`, with the same building blocks. A row is one `UserRecord`: an attribute or
identity that a row neither sets nor unsets is left unchanged.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from engine.event_columns import Rows, TextColumn, ValueColumn

_ROW = np.dtype("<u4")


class UnsetColumn(msgspec.Struct, frozen=True, array_like=True):
    """The rows that unset an attribute or identity; `row_bytes` are those rows as u32, None = all rows."""

    name: str
    row_bytes: bytes | None

    @classmethod
    def of(cls, name: str, rows: Rows | None) -> UnsetColumn:
        return cls(name, None if rows is None else rows.astype(_ROW).tobytes())

    @property
    def rows(self) -> Rows | None:
        return None if self.row_bytes is None else np.frombuffer(self.row_bytes, _ROW).astype(np.int64)

    def take(self, rows: Rows, count: int) -> UnsetColumn:
        """The same for some of the `count` rows."""
        own = self.rows
        if own is None:
            return self
        unsets = np.zeros(count, np.bool_)
        unsets[own] = True
        return UnsetColumn.of(self.name, np.flatnonzero(unsets[rows]))


class ConsentColumn(msgspec.Struct, frozen=True, array_like=True):
    """The states of one consent. `states` has strings: values of `ConsentState`."""

    regulation: str
    purpose: str
    states: ValueColumn

    def take(self, rows: Rows, count: int) -> ConsentColumn:
        """The states of some of the `count` rows."""
        return ConsentColumn(self.regulation, self.purpose, self.states.take(rows, count))


class UserColumns(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A batch of user updates, column by column.

    An attribute has one column for each kind of its values; a row sets it in one of them, unsets it,
    or does neither. Identities are strings.
    """

    user_ids: TextColumn
    inputs: TextColumn
    time_bytes: bytes
    """The time of each row, i64 microseconds: when its content became true."""
    attributes: list[ValueColumn] = []
    unset_attributes: list[UnsetColumn] = []
    identities: list[ValueColumn] = []
    unset_identities: list[UnsetColumn] = []
    consents: list[ConsentColumn] = []

    def __len__(self) -> int:
        return len(self.time_bytes) // 8

    @property
    def times(self) -> npt.NDArray[np.int64]:
        return np.frombuffer(self.time_bytes, "<i8")

    def trimmed(self) -> UserColumns:
        """The same rows without unused user ids and inputs, as a backend expects them."""
        return msgspec.structs.replace(self, user_ids=self.user_ids.trimmed(), inputs=self.inputs.trimmed())

    def take(self, rows: Rows) -> UserColumns:
        """Some of the rows."""
        count = len(self)
        attributes = (column.take(rows, count) for column in self.attributes)
        identities = (column.take(rows, count) for column in self.identities)
        consents = (column.take(rows, count) for column in self.consents)
        return UserColumns(
            user_ids=self.user_ids.take(rows),
            inputs=self.inputs.take(rows),
            time_bytes=self.times[rows].tobytes(),
            attributes=[column for column in attributes if column.data_bytes],
            unset_attributes=_taken(self.unset_attributes, rows, count),
            identities=[column for column in identities if column.data_bytes],
            unset_identities=_taken(self.unset_identities, rows, count),
            consents=[column for column in consents if column.states.data_bytes],
        )


def _taken(columns: list[UnsetColumn], rows: Rows, count: int) -> list[UnsetColumn]:
    taken = (column.take(rows, count) for column in columns)
    return [column for column in taken if column.row_bytes is None or column.row_bytes]
