"""Parts: immutable columnar chunks of a table's rows, in memory or stored.

Rows are sorted by user, time and arrival, so the rows of `users[i]` are offsets[i] to offsets[i + 1]. A
stored part loads each column by itself when it is first asked for. Removing a user leaves a mark: the user's
rows stay where they are, count for nothing, and vanish when the part is next rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar, cast

import msgspec
import numpy as np

from engine.local.events.arrays import (
    TIME_UNITS,
    Bools,
    Int64s,
    Ints,
    Positions,
    Uint32s,
    find_sorted,
    pack_integers,
    ranges,
    runs,
    smallest,
    unpack_integers,
)
from engine.local.events.cache import Loader, Sized
from engine.local.events.columns import Column, DictionaryColumn, NumberColumn, at_rows, unpack_column
from engine.local.events.frame import ColumnKey, Frame
from engine.local.keys import Family, key
from engine.values import Kind, Micros, Value

STRUCTURE = 0xFFFF_FFFF
"""In keys, stands where the attribute number of a column is: the four arrays that every part has."""
_USERS, _COUNTS, _TIMES, _SEQUENCES = range(4)

S = TypeVar("S", bound=Sized)


class PartRecord(msgspec.Struct, array_like=True):
    """What is known of a part without reading its columns. `peak` is the most rows any user has in it."""

    number: int
    rows: int
    users: int
    user_max: int
    peak: int
    time_min: int
    time_max: int
    columns: list[ColumnKey]
    bytes: int = 0
    removed: list[int] = []


class Part:
    """One chunk of rows."""

    def __init__(
        self, loader: Loader, record: PartRecord, slice_key: tuple[int, ...], held: dict[object, Any] | None
    ) -> None:
        self._loader = loader
        self._holder = loader.cache.holder()
        self._tags: set[object] = set()
        self._held = held
        self.slice_key = slice_key
        self.record = record
        self.removed = set(record.removed)

    @classmethod
    def of_frame(
        cls, loader: Loader, frame: Frame, *, number: int = 0, slice_key: tuple[int, ...] = ()
    ) -> Part:
        """A part in memory. It is written with `pack` and let go with `release`."""
        offsets = runs(frame.users)
        held: dict[object, Any] = {
            (STRUCTURE, _USERS): frame.users[offsets[:-1]],
            (STRUCTURE, _COUNTS): offsets,
            (STRUCTURE, _TIMES): frame.times,
            (STRUCTURE, _SEQUENCES): frame.sequences,
        }
        held.update(frame.columns)
        held["row_users"] = frame.users
        record = PartRecord(
            number=number,
            rows=len(frame),
            users=len(offsets) - 1,
            user_max=int(frame.users[-1]),
            peak=int(np.diff(offsets).max()),
            time_min=int(frame.times.min()),
            time_max=int(frame.times.max()),
            columns=sorted(frame.columns),
        )
        return cls(loader, record, slice_key, held)

    # --- its arrays ---------------------------------------------------------------------------------------

    def users(self) -> Uint32s:
        """The users that have rows, sorted, removed ones included."""
        return self._column((STRUCTURE, _USERS), lambda data: unpack_integers(data).astype(np.uint32))

    def offsets(self) -> Int64s:
        """Where each user's rows start, and the number of rows at the end."""
        return self._column((STRUCTURE, _COUNTS), _offsets_of_counts)

    def times(self) -> Int64s:
        return self._column((STRUCTURE, _TIMES), lambda data: unpack_integers(data).astype(np.int64))

    def sequences(self) -> Int64s:
        return self._column((STRUCTURE, _SEQUENCES), lambda data: unpack_integers(data).astype(np.int64))

    def column(self, attribute: int, kind: Kind) -> Column | None:
        """The values of an attribute that are of one kind; None when no row has any."""
        if (attribute, kind) not in self.record.columns:
            return None
        return self._column((attribute, kind), unpack_column)

    def row_users(self) -> Uint32s:
        """The user of each row."""
        return self._derived("row_users", lambda: np.repeat(self.users(), np.diff(self.offsets())))

    def dense_counts(self) -> Ints:
        """How many rows each dense id up to `user_max` has, removed users none."""
        return self._derived("dense_counts", self._count_dense)

    def _count_dense(self) -> Ints:
        users, counts = self.live_counts()
        dense = np.zeros(self.record.user_max + 1, counts.dtype)
        dense[users] = counts
        return dense

    def live_counts(self) -> tuple[Uint32s, Ints]:
        """The users that are not removed, and how many rows each has, in the smallest type."""
        users, counts = self.users(), self._derived("counts", lambda: smallest(np.diff(self.offsets())))
        if self.removed:
            live = ~np.isin(users, self.removed_users())
            return users[live], counts[live]
        return users, counts

    def removed_users(self) -> Uint32s:
        """The removed users, in no order."""
        return np.fromiter(self.removed, np.uint32, len(self.removed))

    def live_rows(self) -> Bools | None:
        """Which rows are not of removed users; None when all are."""
        if not self.removed:
            return None
        return self._derived("live_rows", lambda: ~np.isin(self.row_users(), self.removed_users()))

    def rows_of(self, ids: Uint32s) -> tuple[Positions, Positions]:
        """For sorted users, the places in `ids` of the rows' users, and the rows; both with an item a row."""
        if self.removed:
            kept = np.flatnonzero(~np.isin(ids, self.removed_users()))
            places, at = find_sorted(self.users(), ids[kept])
            places = kept[places]
        else:
            places, at = find_sorted(self.users(), ids)
        offsets = self.offsets()
        lengths = offsets[at + 1] - offsets[at]
        return np.repeat(places, lengths), ranges(offsets[at], lengths)

    def frame(self) -> Frame:
        """All rows of users that are not removed."""
        columns = {tag: column for tag in self.record.columns if (column := self.column(*tag)) is not None}
        whole = Frame(self.row_users(), self.times(), self.sequences(), columns)
        return whole.without(self.removed) if self.removed else whole

    def rows_of_user(self, user: int) -> Positions:
        """The rows of one user, none once removed."""
        if user > self.record.user_max or user in self.removed:
            return np.zeros(0, np.int64)
        return self.rows_of(np.array([user], np.uint32))[1]

    def row(self, row: int) -> tuple[Micros, int, dict[int, Value]]:
        """Time, arrival and attributes of one row."""
        return int(self.times()[row]), int(self.sequences()[row]), self._attributes_at(row)

    def _attributes_at(self, row: int) -> dict[int, Value]:
        """The attributes of one row."""
        attributes: dict[int, Value] = {}
        for attribute, kind in self.record.columns:
            column = self.column(attribute, kind)
            assert column is not None
            _, value = at_rows(column, np.array([row]))
            if len(value):
                attributes[attribute] = _first_value(value)
        return attributes

    @property
    def live_users(self) -> int:
        """How many users it has that are not removed."""
        return self.record.users - len(self.removed)

    @property
    def state(self) -> tuple[int, int] | None:
        """Which of its rows are live, as something that differs from any other part's and after a removal;
        None for a part in memory, which does not last.
        """
        return None if self._held is not None else (self._holder, len(self.removed))

    # --- its life -----------------------------------------------------------------------------------------

    def remove(self, user: int) -> None:
        """From now on the user's rows count for nothing."""
        self.removed.add(user)
        self._forget("dense_counts")
        self._forget("live_rows")

    def marked_record(self) -> PartRecord:
        """The record with the users removed by now."""
        return msgspec.structs.replace(self.record, removed=sorted(self.removed))

    def overlaps(self, start: int | None, end: int | None) -> bool:
        """Whether some row may lie in [start, end)."""
        record = self.record
        return (end is None or record.time_min < end) and (start is None or start <= record.time_max)

    def within(self, start: int | None, end: int | None) -> bool:
        """Whether every row lies in [start, end)."""
        record = self.record
        return (start is None or start <= record.time_min) and (end is None or record.time_max < end)

    def pack(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all columns."""
        counts = np.diff(self.offsets())
        structure = (
            pack_integers(self.users()),
            pack_integers(counts),
            pack_integers(self.times(), rebase=True, units=TIME_UNITS),
            pack_integers(self.sequences(), rebase=True),
        )
        for number, packed in enumerate(structure):
            yield self._key(STRUCTURE, number), packed
        for attribute, kind in self.record.columns:
            column = self.column(attribute, kind)
            assert column is not None
            yield self._key(attribute, kind), column.pack()

    @property
    def prefix(self) -> bytes:
        """What the keys of all its columns begin with."""
        return key(Family.EVENT_COLUMN, *self.slice_key, self.record.number)

    def release(self) -> None:
        """The columns are stored: hands those in memory to the cache, which may drop them."""
        held, self._held = self._held, None
        for tag, column in (held or {}).items():
            self._tags.add(tag)
            self._loader.cache.put((self._holder, tag), column)

    def dispose(self) -> None:
        """The part is replaced: lets go of what the cache holds of it."""
        for tag in self._tags:
            self._loader.cache.drop((self._holder, tag))

    def _key(self, attribute: int, kind: int) -> bytes:
        return key(Family.EVENT_COLUMN, *self.slice_key, self.record.number, attribute, kind)

    def _column(self, tag: tuple[int, int], decode: Callable[[memoryview], S]) -> S:
        if self._held is not None:
            return cast(S, self._held[tag])
        self._tags.add(tag)
        return self._loader.column((self._holder, tag), self._key(*tag), decode)

    def _derived(self, tag: str, derive: Callable[[], S]) -> S:
        cache_key = (self._holder, tag)
        found = self._loader.cache.get(cache_key) if self._held is None else self._held.get(tag)
        if found is None:
            found = derive()
            if self._held is None:
                self._tags.add(tag)
                self._loader.cache.put(cache_key, found)
            else:
                self._held[tag] = found
        return cast(S, found)

    def _forget(self, tag: str) -> None:
        if self._held is not None:
            self._held.pop(tag, None)
        self._loader.cache.drop((self._holder, tag))


def derived_of_all(parts: Sequence[Part], tag: Hashable, derive: Callable[[], S]) -> S:
    """What follows from the live rows of stored parts, kept until other columns need the room; it is derived
    anew when a part has been replaced, added or has lost a user.
    """
    cache = parts[0]._loader.cache
    cache_key = (parts[0]._holder, (tag, tuple(part.state for part in parts)))
    found = cache.get(cache_key)
    if found is None:
        found = derive()
        cache.put(cache_key, found)
    return cast(S, found)


def _offsets_of_counts(data: memoryview) -> Int64s:
    counts = unpack_integers(data)
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _first_value(column: Column) -> Value:
    if isinstance(column, NumberColumn):
        return float(column.doubles[0])
    if isinstance(column, DictionaryColumn):
        return column.entries.values[int(column.codes[0])]
    return int(column.times[0])
