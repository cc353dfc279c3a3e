"""Parts: immutable columnar chunks of a table's rows, in memory or stored.

Rows are sorted by user, time and arrival: the rows of `users[i]` are offsets[i] to offsets[i + 1]. A stored
part loads each column on first use. Removing a user, or all rows before an instant, leaves a tombstone.
Removed rows stay in the part, are ignored by every read, and disappear when the part is next rewritten. All
other rows are *live*.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
import numpy as np

from engine.backends.local.events.cache import Keeping, Loader, Sized
from engine.backends.local.events.columns import (
    Column,
    DictionaryColumn,
    NumberColumn,
    at_rows,
    unpack_column,
)
from engine.backends.local.events.frame import ColumnKey, Frame
from engine.backends.local.storage.arrays import (
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
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.turns import TakesLong
from engine.errors import DataLoss
from engine.values import Kind, Micros, Value

STRUCTURE = 0xFFFF_FFFF
"""Used in keys instead of an attribute number, for the four arrays of every part."""
_USERS, _COUNTS, _TIMES, _SEQUENCES = range(4)
_OFFSETS, _ROW_USERS = "offsets", "row_users"
"""Tags of what is derived from users and counts."""
ROW_USER_BYTES = 4

_NOBODY: frozenset[int] = frozenset()

S = TypeVar("S", bound=Sized)


class TimeSpan(NamedTuple):
    """The first and the last time of some rows."""

    first: Micros
    last: Micros

    def joined(self, other: TimeSpan) -> TimeSpan:
        """The span of both sets of rows."""
        return TimeSpan(min(self.first, other.first), max(self.last, other.last))


class Tombstones(NamedTuple):
    """Removed rows of a part: all rows of some users, and all rows before an instant."""

    removed: tuple[int, ...]
    floor: Micros | None


class PartRecord(msgspec.Struct, array_like=True):
    """Metadata of a part. `peak` is the largest number of rows of one user. `removed` and `floor` are the
    tombstones: removed users, and the instant before which all rows are removed.
    """

    number: int
    rows: int
    users: int
    user_max: int
    peak: int
    time_min: int
    time_max: int
    columns: tuple[ColumnKey, ...]
    """In order."""
    margins: tuple[tuple[int, int], ...]
    """For each column, its first time minus `time_min` and `time_max` minus its last time."""
    bytes: int = 0
    removed: tuple[int, ...] = ()
    floor: int | None = None


class Part:
    """One chunk of rows."""

    def __init__(
        self,
        loader: Loader,
        record: PartRecord,
        slice_key: tuple[int, ...],
        held: dict[object, Any] | None,
        *,
        holder: int | None = None,
    ) -> None:
        """`holder`: that of the part whose columns it shares."""
        self._loader = loader
        self._holder = loader.cache.holder() if holder is None else holder
        self._tags: set[object] = set()
        self._held = held
        self.slice_key = slice_key
        self.record = record
        self.removed = frozenset(record.removed) if record.removed else _NOBODY
        self.floor = record.floor
        self.is_damaged = False
        """The answer of `frame`."""
        self._expired_rows: int | None = None

    @classmethod
    def of_frame(
        cls, loader: Loader, frame: Frame, *, number: int = 0, slice_key: tuple[int, ...] = ()
    ) -> Part:
        """A part in memory. `pack` writes it, `release` frees its columns."""
        offsets = runs(frame.users)
        held: dict[object, Any] = {
            (STRUCTURE, _USERS): frame.users[offsets[:-1]],
            (STRUCTURE, _COUNTS): smallest(np.diff(offsets)),
            (STRUCTURE, _TIMES): frame.times,
            (STRUCTURE, _SEQUENCES): frame.sequences,
        }
        held.update(frame.columns)
        held[_ROW_USERS] = frame.users
        held[_OFFSETS] = offsets
        columns = tuple(sorted(frame.columns))
        first, last = int(frame.times.min()), int(frame.times.max())
        record = PartRecord(
            number=number,
            rows=len(frame),
            users=len(offsets) - 1,
            user_max=int(frame.users[-1]),
            peak=int(np.diff(offsets).max()),
            time_min=first,
            time_max=last,
            columns=columns,
            margins=tuple(_margins(frame, tag, first, last) for tag in columns),
        )
        return cls(loader, record, slice_key, held)

    # --- its arrays ---------------------------------------------------------------------------------------

    def users(self) -> Uint32s:
        """The users that have rows, sorted, removed users included."""
        return self._column(
            (STRUCTURE, _USERS), lambda data: unpack_integers(data).astype(np.uint32, copy=False)
        )

    def counts(self) -> Ints:
        """The number of rows of each user, removed ones included, in the smallest integer type."""
        return self._column((STRUCTURE, _COUNTS), unpack_integers)

    def offsets(self) -> Int64s:
        """Start of each user's rows, followed by the number of rows."""
        return self._derived(_OFFSETS, lambda: _offsets_of(self.counts()))

    def times(self) -> Int64s:
        return self._column(
            (STRUCTURE, _TIMES), lambda data: unpack_integers(data).astype(np.int64, copy=False)
        )

    def sequences(self) -> Int64s:
        return self._column(
            (STRUCTURE, _SEQUENCES), lambda data: unpack_integers(data).astype(np.int64, copy=False)
        )

    def column(self, attribute: int, kind: Kind) -> Column | None:
        """The values of an attribute and kind; None when no row has any."""
        if not self._has_column((attribute, kind)):
            return None
        return self._column((attribute, kind), unpack_column)

    def _has_column(self, tag: ColumnKey) -> bool:
        # Columns are in order. A set of them for each part would take more memory than the search takes time.
        columns = self.record.columns
        at = bisect.bisect_left(columns, tag)
        return at < len(columns) and columns[at] == tag

    def live_column(self, attribute: int, kind: Kind) -> Column | None:
        """The values that live rows have; None when no row has any."""
        column = self.column(attribute, kind)
        live = self.live_rows()
        if column is None or live is None:
            return column
        return column.at(np.flatnonzero(live if column.positions is None else live[column.positions]))

    def row_users(self) -> Uint32s:
        """The user of each row."""
        return self._derived(_ROW_USERS, lambda: np.repeat(self.users(), self.counts()))

    def row_users_from(self, first: int) -> Uint32s:
        """For each row its user, counted from a number on. Not cached."""
        return np.repeat(self.users() + np.uint32(first), self.counts())

    @property
    def keeps_row_users(self) -> bool:
        """Whether the user of each row is in memory, or would stay there."""
        cache = self._loader.cache
        return (
            self._held is not None
            or cache.has((self._holder, _ROW_USERS))
            or cache.has_room(self.record.rows * ROW_USER_BYTES)
        )

    def dense_counts(self) -> Ints:
        """Number of live rows of each dense id up to `user_max`."""
        return self._derived(self._of_live("dense_counts"), self._count_dense)

    def _count_dense(self) -> Ints:
        users, counts = self.live_counts()
        dense = np.zeros(self.record.user_max + 1, counts.dtype)
        dense[users] = counts
        return dense

    def live_counts(self) -> tuple[Uint32s, Ints]:
        """The users with live rows, and the number of rows of each in the smallest integer type."""
        live = None if self.floor is None else self.live_rows()
        if live is not None:
            live_users = self.row_users()[live]
            starts = runs(live_users)
            return live_users[starts[:-1]], smallest(np.diff(starts))
        users, counts = self.users(), self.counts()
        if self.removed:
            kept = ~np.isin(users, self.removed_users())
            return users[kept], counts[kept]
        return users, counts

    def removed_users(self) -> Uint32s:
        """The removed users, in no order."""
        return np.fromiter(self.removed, np.uint32, len(self.removed))

    def live_rows(self) -> Bools | None:
        """Mask of live rows; None when all rows are live."""
        return (
            self._derived(self._of_live("live_rows"), self._find_live_rows) if self.has_tombstones else None
        )

    def _find_live_rows(self) -> Bools:
        if self.floor is None:
            return ~np.isin(self.row_users(), self.removed_users())
        live: Bools = self.times() >= self.floor
        return live & ~np.isin(self.row_users(), self.removed_users()) if self.removed else live

    def rows_of(self, ids: Uint32s) -> tuple[Positions, Positions]:
        """For sorted users, the live rows: for each row the position of its user in `ids`, and the row."""
        if len(ids) == 1:
            rows = self._rows_of_one(int(ids[0]))
            return self._not_expired(np.zeros(len(rows), np.int64), rows)
        if self.removed:
            kept = np.flatnonzero(~np.isin(ids, self.removed_users()))
            positions, at = find_sorted(self.users(), ids[kept])
            positions = kept[positions]
        else:
            positions, at = find_sorted(self.users(), ids)
        offsets = self.offsets()
        lengths = offsets[at + 1] - offsets[at]
        return self._not_expired(np.repeat(positions, lengths), ranges(offsets[at], lengths))

    def _rows_of_one(self, user: int) -> Positions:
        """The rows of one user without a tombstone, expired or not: by far the most common question, and a
        range is made faster than joined.
        """
        users = self.users()
        at = int(users.searchsorted(np.uint32(user)))
        if at == len(users) or users[at] != user or user in self.removed:
            return _NO_ROWS
        offsets = self.offsets()
        return np.arange(offsets[at], offsets[at + 1])

    def rows_between(self, user: int, start: Micros | None, end: Micros | None) -> range:
        """The live rows of a user in [start, end). Raises TakesLong when they have to be read."""
        if user > self.record.user_max or user in self.removed:
            return range(0)
        users: Uint32s = self._in_memory((STRUCTURE, _USERS))
        at = int(users.searchsorted(np.uint32(user)))
        if at == len(users) or users[at] != user:
            return range(0)
        offsets = self._offsets_in_memory()
        first, last = int(offsets[at]), int(offsets[at + 1])
        if self.floor is None and self.within(start, end):
            return range(first, last)
        # The rows of a user are in order of time.
        times = self.times_in_memory()[first:last]
        start = self.floor if start is None else start if self.floor is None else max(start, self.floor)
        before = 0 if start is None else int(times.searchsorted(start))
        until = len(times) if end is None else int(times.searchsorted(end))
        return range(first + before, first + until)

    def _offsets_in_memory(self) -> Int64s:
        """The offsets. Raises TakesLong when the counts have to be read."""
        found = self._found(_OFFSETS)
        if found is None:
            counts = self._in_memory((STRUCTURE, _COUNTS))
            found = self._derived(_OFFSETS, lambda: _offsets_of(counts))
        return cast(Int64s, found)

    def column_in_memory(self, attribute: int, kind: Kind) -> Column | None:
        """As `column`. Raises TakesLong when it has to be read."""
        if not self._has_column((attribute, kind)):
            return None
        found: Column = self._in_memory((attribute, kind))
        return found

    def times_in_memory(self) -> Int64s:
        """As `times`. Raises TakesLong when they have to be read."""
        found: Int64s = self._in_memory((STRUCTURE, _TIMES))
        return found

    def sequences_in_memory(self) -> Int64s:
        """As `sequences`. Raises TakesLong when they have to be read."""
        found: Int64s = self._in_memory((STRUCTURE, _SEQUENCES))
        return found

    def _in_memory(self, tag: Hashable) -> Any:
        found = self._found(tag)
        if found is None:
            raise TakesLong
        return found

    def _found(self, tag: Hashable) -> Any:
        return self._loader.cache.get((self._holder, tag)) if self._held is None else self._held.get(tag)

    def _not_expired(self, row_positions: Positions, rows: Positions) -> tuple[Positions, Positions]:
        if self.floor is None:
            return row_positions, rows
        live = self.times()[rows] >= self.floor
        return row_positions[live], rows[live]

    def frame(self) -> Frame:
        """All live rows."""
        try:
            found = {tag: column for tag in self.record.columns if (column := self.column(*tag)) is not None}
            whole = Frame(self.row_users(), self.times(), self.sequences(), found)
            live = self.live_rows()
        except DataLoss:
            self.is_damaged = True
            raise
        return whole if live is None else whole.take(np.flatnonzero(live))

    def has_user(self, user: int) -> bool:
        """Whether a user without a tombstone has rows, live or not."""
        if user > self.record.user_max or user in self.removed:
            return False
        return bool(len(find_sorted(self.users(), np.array([user], np.uint32))[0]))

    def rows_of_user(self, user: int) -> Positions:
        """The live rows of one user."""
        return self.rows_of(np.array([user], np.uint32))[1] if self.has_user(user) else np.zeros(0, np.int64)

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
    def is_loaded(self) -> bool:
        """Whether the users and their rows are in memory."""
        return self._held is not None or all(
            self._loader.cache.has((self._holder, (STRUCTURE, number))) for number in (_USERS, _COUNTS)
        )

    @property
    def has_times(self) -> bool:
        """Whether the times are in memory."""
        return self._held is not None or self._loader.cache.has((self._holder, (STRUCTURE, _TIMES)))

    def has_column(self, attribute: int, kind: Kind) -> bool:
        """Whether the values of an attribute and kind are in memory, or there are none."""
        tag = attribute, kind
        return (
            self._held is not None or not self._has_column(tag) or self._loader.cache.has((self._holder, tag))
        )

    @property
    def has_tombstones(self) -> bool:
        """Whether some rows may be removed."""
        return bool(self.removed) or self.floor is not None

    @property
    def is_live(self) -> bool:
        """Whether any row is live."""
        if not self.removed or self.is_expired:
            return not self.is_expired
        if self.floor is None:
            return self.record.users > len(self.removed)
        live = self.live_rows()
        return live is None or bool(live.any())

    @property
    def is_expired(self) -> bool:
        """Whether all rows lie before the floor."""
        return self.floor is not None and self.record.time_max < self.floor

    @property
    def live_start(self) -> Micros:
        """No live row is earlier."""
        return self.record.time_min if self.floor is None else max(self.floor, self.record.time_min)

    def expired_rows(self) -> int:
        """Number of rows before the floor."""
        if self._expired_rows is None:
            floor = self.floor
            self._expired_rows = 0 if floor is None else int(np.count_nonzero(self.times() < floor))
        return self._expired_rows

    @property
    def is_stored(self) -> bool:
        """Whether it is stored, and not in memory alone."""
        return self._held is None

    @property
    def state(self) -> tuple[int, int, Micros | None] | None:
        """A token for the current live rows: unique among parts and changed by every removal. None for a part
        in memory.
        """
        return None if self._held is not None else (self._holder, len(self.removed), self.floor)

    # --- its life -----------------------------------------------------------------------------------------

    def has_any(self, users: Uint32s) -> bool:
        """Whether any of the users, sorted, has rows, expired ones included."""
        if int(users[0]) > self.record.user_max:
            return False
        positions, _ = find_sorted(self.users(), users)
        return bool(len(positions)) and not self.removed.issuperset(users[positions].tolist())

    def remove(self, users: Uint32s) -> bool:
        """Adds tombstones for those of the users, sorted, that have rows. False when none has any."""
        if int(users[0]) > self.record.user_max:
            return False
        positions, _ = find_sorted(self.users(), users)
        found = frozenset(users[positions].tolist()) - self.removed
        if not found:
            return False
        self._forget_live()
        self.removed |= found
        return True

    def has_before(self, instant: Micros) -> bool:
        """Whether it has live rows before the instant."""
        if self.live_start >= instant or self.is_expired:
            return False
        live = self.live_rows()
        return live is None or bool((self.times()[live] < instant).any())

    def remove_before(self, instant: Micros) -> bool:
        """Adds a tombstone for rows before the instant. False when there are no such live rows."""
        if not self.has_before(instant):
            return False
        self._forget_live()
        self.floor = instant
        self._expired_rows = None
        return True

    def tombstones(self) -> Tombstones:
        """The current tombstones."""
        return Tombstones(tuple(sorted(self.removed)), self.floor)

    def as_now(self, loader: Loader) -> Part:
        """The part as it is now, with the same cached columns, to be read while this one goes on."""
        held = None if self._held is None else dict(self._held)
        part = Part(loader, self.record, self.slice_key, held, holder=self._holder)
        part._tags = self._tags
        part.removed = self.removed
        part.floor = self.floor
        return part

    def frozen(self, loader: Loader) -> Part:
        """The part as it is now, to be read through a loader of its own while this one goes on."""
        held = None if self._held is None else dict(self._held)
        return Part(loader, self.record_with_tombstones(self.tombstones()), self.slice_key, held)

    def record_with_tombstones(self, tombstones: Tombstones) -> PartRecord:
        """The record with these tombstones."""
        return msgspec.structs.replace(self.record, removed=tombstones.removed, floor=tombstones.floor)

    def overlaps(self, start: int | None, end: int | None) -> bool:
        """Whether some live row may lie in [start, end)."""
        time_max = self.record.time_max
        return (end is None or self.live_start < end) and (start is None or start <= time_max)

    def within(self, start: int | None, end: int | None) -> bool:
        """Whether every live row lies in [start, end)."""
        time_max = self.record.time_max
        return (start is None or start <= self.live_start) and (end is None or time_max < end)

    def column_spans(self) -> Iterator[tuple[ColumnKey, TimeSpan]]:
        """The columns, with the first and last time of rows that have a value, live or not."""
        record = self.record
        for tag, (later, earlier) in zip(record.columns, record.margins, strict=True):
            yield tag, TimeSpan(record.time_min + later, record.time_max - earlier)

    def pack(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of all columns."""
        structure = (
            pack_integers(self.users()),
            pack_integers(self.counts()),
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
        """Key prefix of the part's columns."""
        return key(Family.EVENT_COLUMN, *self.slice_key, self.record.number)

    def release(self, *, keep: bool) -> None:
        """Called once the columns are stored: releases those in memory, or moves them to the cache."""
        held, self._held = self._held, None
        if keep and held is not None:
            self._tags |= held.keys()
            for tag, column in held.items():
                self._loader.keep((self._holder, tag), column)

    def dispose(self) -> None:
        """Called when the part was replaced: drops its columns from the cache."""
        for tag in self._tags:
            self._loader.cache.drop((self._holder, tag))

    def keeping(self, keeping: Keeping) -> AbstractContextManager[None]:
        """Caches what is read of it, and of other parts with its loader, to this extent in the block."""
        return self._loader.keeping(keeping)

    def _key(self, attribute: int, kind: int) -> bytes:
        return key(Family.EVENT_COLUMN, *self.slice_key, self.record.number, attribute, kind)

    def _column(self, tag: tuple[int, int], decode: Callable[[memoryview], S]) -> S:
        if self._held is not None:
            return cast(S, self._held[tag])
        found = self._loader.cache.get((self._holder, tag))
        if found is not None:
            return cast(S, found)
        self._tags.add(tag)
        return self._loader.column((self._holder, tag), self._key(*tag), decode)

    def _of_live(self, tag: str) -> Hashable:
        """The tag of something derived from the live rows: copies of the part may have others."""
        return tag, len(self.removed), self.floor

    def _derived(self, tag: Hashable, derive: Callable[[], S]) -> S:
        cache_key = (self._holder, tag)
        found = self._loader.cache.get(cache_key) if self._held is None else self._held.get(tag)
        if found is None:
            found = derive()
            if self._held is None:
                self._tags.add(tag)
                self._loader.keep(cache_key, found)
            else:
                self._held[tag] = found
        return cast(S, found)

    def _forget_live(self) -> None:
        for tag in (self._of_live("dense_counts"), self._of_live("live_rows")):
            if self._held is not None:
                self._held.pop(tag, None)
            self._tags.discard(tag)
            self._loader.cache.drop((self._holder, tag))


def derived_of_all(parts: Sequence[Part], tag: Hashable, derive: Callable[[], S]) -> S:
    """A value derived from the live rows of stored parts, cached while there is room. It is derived again
    when a part is replaced or added, or gets a tombstone.
    """
    loader = parts[0]._loader
    cache_key = (parts[0]._holder, (tag, tuple(part.state for part in parts)))
    found = loader.cache.get(cache_key)
    if found is None:
        with loader.keeping(Keeping.WHAT_FITS):
            found = derive()
        loader.keep(cache_key, found)
    return cast(S, found)


def _margins(frame: Frame, tag: ColumnKey, first: Micros, last: Micros) -> tuple[int, int]:
    positions = frame.columns[tag].positions
    if positions is None:
        return 0, 0
    times = frame.times[positions]
    return int(times.min()) - first, last - int(times.max())


def _offsets_of(counts: Ints) -> Int64s:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _first_value(column: Column) -> Value:
    if isinstance(column, NumberColumn):
        return float(column.doubles[0])
    if isinstance(column, DictionaryColumn):
        return column.entries.values[int(column.codes[0])]
    return int(column.times[0])


_NO_ROWS: Positions = np.zeros(0, np.int64)
