"""A table: all events of one account, input, event name, event type and group.

New rows are buffered. The first read after them turns them into a part in memory. Fresh parts merge as they
come, so that each is at least twice as large as the next. A checkpoint *freezes* what is in memory, so that
rows which come later are not part of it, routes the frozen rows into slices and *stages* the result, which is
then written. The table stays as it was until the checkpoint's transaction has committed (`settle`) or is
rolled back (`unstage`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.buffered_rows import BufferedRows, Wanted
from engine.backends.local.events.cache import Loader
from engine.backends.local.events.compaction import (
    SLICE_PARTS_LIMIT,
    SLICE_PARTS_MAX,
    Allowance,
    Allowances,
    apart,
    is_late,
    is_to_be_rewritten,
    joinable,
    needs_compaction,
    rows_in,
)
from engine.backends.local.events.frame import Frame, RowSet
from engine.backends.local.events.model import EventRow
from engine.backends.local.events.part import Part, PartRecord, Tombstones
from engine.backends.local.events.slices import (
    NUMBER_BIAS,
    SLICE_ROWS_MAX,
    SliceKey,
    rows_by_child,
    rows_by_slice,
)
from engine.backends.local.storage.arrays import Uint32s
from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.transactions import ReadTransaction, Writable, missing_keys
from engine.criteria.model import EventType
from engine.errors import DataLoss
from engine.values import MICROS_PER_DAY, Micros

TableKey = tuple[int, int, int, int, int]
"""Account, input number, name number, event type, group."""

_encoder = msgspec.msgpack.Encoder()


class TableRecord(msgspec.Struct, array_like=True):
    """Metadata of a table. `has_tombstones`: some part has to be rewritten. `needs_compaction`: some parts
    should be merged.
    """

    next_part: int = 1
    rows: int = 0
    bytes: int = 0
    has_tombstones: bool = False
    needs_compaction: bool = False


class SliceRecord(msgspec.Struct, array_like=True):
    """The parts of a slice."""

    parts: list[PartRecord]


_table_decoder = msgspec.msgpack.Decoder(TableRecord)
slice_decoder = msgspec.msgpack.Decoder(SliceRecord)

Slices = dict[SliceKey, list[Part]]

UNPACKED_ROWS_MAX = 256
"""Buffered rows that are looked at one by one: to make a part of them takes as long, however few they are."""

_NO_SLICES: frozenset[SliceKey] = frozenset()

_BITMAP_ID_BYTES = 2
_BITMAP_OVERHEAD_BYTES = 200


@dataclass(slots=True)
class _Users:
    """All users that have rows."""

    ids: BitMap

    @property
    def nbytes(self) -> int:
        return _BITMAP_ID_BYTES * len(self.ids) + _BITMAP_OVERHEAD_BYTES


@dataclass(slots=True)
class LastCheckpoint:
    """The newest checkpoint of an account that has committed, as far as reads have noticed it."""

    number: int = 0


@dataclass(slots=True)
class _Staged:
    """A checkpoint that may not have committed: changed slices (an empty list: deleted) and the record."""

    checkpoint: int
    slices: Slices
    record: TableRecord
    last_day: int = 0
    """Day of the table's last event. Earlier days receive few more rows."""
    new: list[Part] = field(default_factory=list)
    """Parts to be written."""
    gone: list[Part] = field(default_factory=list)
    """Stored parts to be deleted."""
    tombstones: dict[SliceKey, list[tuple[Part, Tombstones]]] = field(default_factory=dict)
    """Parts of changed slices, with the tombstones they had when the checkpoint was prepared."""


class Table:
    """The rows of one table."""

    __slots__ = (
        "_buffered",
        "_checkpointing",
        "_fresh",
        "_frozen",
        "_last_checkpoint",
        "_loader",
        "_new_tombstones",
        "_slices",
        "_staged",
        "_users_key",
        "_was_read",
        "key",
        "record",
    )

    def __init__(
        self,
        loader: Loader,
        last_checkpoint: LastCheckpoint,
        table_key: TableKey,
        record: TableRecord | None = None,
    ) -> None:
        self._loader = loader
        self._last_checkpoint = last_checkpoint
        self.key = table_key
        self.record = record or TableRecord()
        self._slices: Slices | None = None if record else {}
        # Of a hundred thousand tables most have nothing new. What they do not have is None or an empty tuple:
        # the garbage collector looks at every list and set.
        self._buffered: BufferedRows | None = None
        self._fresh: tuple[Part, ...] = ()
        self._frozen: BufferedRows | None = None
        """Rows of the checkpoint under way that are in no part yet."""
        self._checkpointing: tuple[Part, ...] = ()
        """Its other rows."""
        self._staged: _Staged | None = None
        self._new_tombstones = _NO_SLICES
        self._was_read = False
        """Rows added since the last checkpoint. Writing other tables must not evict what is read."""
        self._users_key = loader.cache.holder(), "users"

    @staticmethod
    def decode_record(stored: memoryview) -> TableRecord:
        """The record as stored under the table's key."""
        return _table_decoder.decode(stored)

    @property
    def has_changes(self) -> bool:
        """Whether a checkpoint has something to write."""
        return bool(
            self._buffered or self._frozen or self._fresh or self._checkpointing or self._new_tombstones
        )

    @property
    def is_purging(self) -> bool:
        """Whether removed rows are still stored that a checkpoint has to purge."""
        return self.record.has_tombstones or bool(self._new_tombstones)

    @property
    def is_unfinished(self) -> bool:
        """Whether a checkpoint would rewrite what is stored even without changes."""
        return self.record.has_tombstones or self.record.needs_compaction

    @property
    def rows(self) -> int:
        """Number of rows, removed ones included until they are purged."""
        return self.record.rows + self.fresh_rows

    @property
    def fresh_rows(self) -> int:
        """Rows that are not stored yet."""
        parts = sum(part.record.rows for part in (*self._fresh, *self._checkpointing))
        return self._rows_in_no_part + parts

    @property
    def _rows_in_no_part(self) -> int:
        return sum(map(len, self._in_no_part))

    @property
    def _in_no_part(self) -> list[BufferedRows]:
        return [rows for rows in (self._frozen, self._buffered) if rows is not None]

    def _every_part(self) -> Iterator[Part]:
        """The parts as of the state that is read, stored ones first. Call `gather` before for all rows."""
        for parts in self._loaded_slices().values():
            yield from parts
        yield from self._checkpointing
        yield from self._fresh

    def add(self, row: EventRow) -> None:
        """Takes a row."""
        if self._buffered is None:
            self._buffered = BufferedRows()
        self._buffered.rows.append(row)

    def add_set(self, rows: RowSet) -> None:
        """Takes rows that are columns already."""
        if self._buffered is None:
            self._buffered = BufferedRows()
        self._buffered.sets.append(rows)

    # --- reading --------------------------------------------------------------------------------------------

    def unpacked(self) -> list[tuple[int, Micros]]:
        """The user and the time of buffered rows that stay out of parts, as they are few. Packs them when
        they are many.
        """
        if self._rows_in_no_part > UNPACKED_ROWS_MAX:
            self.gather()
        return [each for rows in self._in_no_part for each in rows.users_and_times()]

    def parts(self, start: Micros | None, end: Micros | None, *, packs: bool = True) -> Iterator[Part]:
        """Parts that may have rows in [start, end). Without `packs`, those of `unpacked` are in none."""
        slices = self._loaded_slices()
        self._was_read = True
        if packs:
            self.gather()
        first = None if start is None else start // MICROS_PER_DAY
        # A question about everyone comes here for hundreds of slices: properties take as long as the rest.
        for (level, number), parts in slices.items():
            if (end is None or (number << level) * MICROS_PER_DAY < end) and (
                first is None or first < (number + 1) << level
            ):
                yield from (part for part in parts if part.overlaps(start, end))
        for part in (*self._checkpointing, *self._fresh):
            if part.overlaps(start, end):
                yield part

    def user_count(self) -> int:
        """Number of users with rows. The set is cached while there is room and follows additions and
        removals, so a table is scanned once.
        """
        self.gather()
        users = self._kept_users()
        if users is None:
            parts = [part for part in self.parts(None, None) if part.is_live]
            mask = np.zeros(max((part.record.user_max + 1 for part in parts), default=0), np.bool_)
            for part in parts:
                mask[part.live_counts()[0] if part.has_tombstones else part.users()] = True
            users = _Users(bitmap_of_mask(mask))
            self._loader.cache.put(self._users_key, users, users.nbytes)
        return len(users.ids)

    def _kept_users(self) -> _Users | None:
        users = self._loader.cache.get(self._users_key)
        assert users is None or isinstance(users, _Users)
        return users

    @property
    def is_known(self) -> bool:
        """Whether the metadata of its parts is in memory."""
        return self._slices is not None

    def know(self) -> None:
        """Reads the metadata of its parts."""
        self._loaded_slices()

    def _loaded_slices(self) -> Slices:
        """The stored parts, as of the state that is read. Settles a checkpoint that has committed: call this
        before anything else is looked at.
        """
        if self._staged is not None and self._staged.checkpoint <= self._last_checkpoint.number:
            self._settle(self._staged)
        if self._slices is None:
            with self._loader.session() as txn:
                self._slices = self._read_slices(txn)
        return self._slices

    def _read_slices(self, txn: ReadTransaction) -> Slices:
        slices: Slices = {}
        for found, stored in txn.scan(key(Family.EVENT_SLICE, *self.key)):
            _, _, _, _, _, level, number = parts_of(found)
            assert isinstance(level, int)
            assert isinstance(number, int)
            slice_key = SliceKey(level, number - NUMBER_BIAS)
            records = slice_decoder.decode(stored).parts
            slices[slice_key] = [
                Part(self._loader, record, self._stored_key(slice_key), None) for record in records
            ]
        parts = [part for _, part in _parts_in(slices)]
        totals = (rows_in(parts), sum(part.record.bytes for part in parts))
        if totals != (self.record.rows, self.record.bytes):
            raise missing_keys(key(Family.EVENT_SLICE, *self.key))
        return slices

    def _stored_key(self, slice_key: SliceKey) -> tuple[int, ...]:
        return (*self.key, slice_key.level, slice_key.number + NUMBER_BIAS)

    # --- changing -------------------------------------------------------------------------------------------

    def pack(self) -> None:
        """Turns buffered rows into columns, which take a tenth of the memory."""
        if self._buffered is not None:
            self._buffered.pack()

    def gather(self) -> None:
        """Turns buffered rows into parts, for a read."""
        self._gather_frozen()
        if self._buffered is None:
            return
        frames, fresh = [self._frame_of(self._buffered)], list(self._fresh)
        rows = len(frames[0])
        while fresh and fresh[-1].record.rows < 2 * rows:
            frames.append(fresh.pop().frame())
            rows += len(frames[-1])
        self._fresh = (*fresh, Part.of_frame(self._loader, Frame.concatenated(frames)))
        self._buffered = None

    def _gather_frozen(self) -> None:
        if self._frozen is not None:
            part = Part.of_frame(self._loader, self._frame_of(self._frozen))
            self._checkpointing = (*self._checkpointing, part)
            self._frozen = None

    def _frame_of(self, buffered: BufferedRows) -> Frame:
        frame = Frame.of_sets(buffered.taken())
        users = self._kept_users()
        if users is not None:
            users.ids |= bitmap_of(frame.users)
            self._loader.cache.put(self._users_key, users, users.nbytes)
        return frame

    def has_any(self, users: Wanted) -> bool:
        """Whether any row is of one of the users. Rows before the instant of `remove_before` count."""
        return any(rows.has_any(users) for rows in self._in_no_part) or any(
            part.has_any(users.ids) for part in self._every_part()
        )

    def has_before(self, instant: Micros) -> bool:
        """Whether any row is from before the instant."""
        return any(rows.has_before(instant) for rows in self._in_no_part) or any(
            part.has_before(instant) for part in self._every_part()
        )

    def extract(self, user: int) -> list[EventRow]:
        """Removes a user's rows and returns them, unordered."""
        _, input_number, name_number, event_type, group = self.key
        type_ = EventType(event_type)
        rows: list[EventRow] = []
        self.gather()
        for part in self._every_part():
            for row in part.rows_of_user(user).tolist():
                time, sequence, attributes = part.row(row)
                rows.append(
                    EventRow(group, user, input_number, name_number, type_, time, sequence, attributes)
                )
        self.remove_users(np.array([user], np.uint32))
        return rows

    def remove_users(self, users: Uint32s) -> None:
        """Removes the rows of some users, sorted. A checkpoint under way must have staged the table."""
        slices = self._loaded_slices()
        self.gather()
        for part in (*self._checkpointing, *self._fresh):
            part.remove(users)
        self._fresh = tuple(part for part in self._fresh if part.is_live)
        # A checkpoint under way has written its rows already, so they get a tombstone there too.
        stored = (*_parts_in(slices), *self._staged_parts())
        self._new_tombstones |= {slice_key for slice_key, part in stored if part.remove(users)}
        kept = self._kept_users()
        if kept is not None:
            kept.ids -= bitmap_of(users)

    def remove_before(self, instant: Micros) -> None:
        """Removes all rows before the instant. A checkpoint under way must have staged the table."""
        slices = self._loaded_slices()
        self.gather()
        for part in (*self._checkpointing, *self._fresh):
            part.remove_before(instant)
        self._fresh = tuple(part for part in self._fresh if part.is_live)
        stored = (*_parts_in(slices), *self._staged_parts())
        self._new_tombstones |= {slice_key for slice_key, part in stored if part.remove_before(instant)}
        self._loader.cache.drop(self._users_key)

    def _staged_parts(self) -> Iterator[tuple[SliceKey, Part]]:
        return _parts_in(self._staged.slices if self._staged else {})

    # --- checkpointing --------------------------------------------------------------------------------------

    def has_work(self, allowances: Allowances) -> bool:
        """Whether a checkpoint has work to do here."""
        return (
            self.has_changes
            or (self.record.has_tombstones and not allowances.purge.is_used_up)
            or (self.record.needs_compaction and not allowances.compaction.is_used_up)
        )

    def freeze(self) -> None:
        """The rows of now are part of a checkpoint, and those that come later are not."""
        if self._frozen is None:
            self._frozen = self._buffered
        elif self._buffered is not None:
            self._frozen.take(self._buffered)
        self._buffered = None
        self._checkpointing, self._fresh = (*self._checkpointing, *self._fresh), ()

    def stage(self, allowances: Allowances, checkpoint: int) -> None:
        """Decides what `write` writes: frozen rows, new tombstones, and rewritten parts within the allowances
        of the checkpoint, by its number. Rows may have come since `freeze`, but none may have been removed.
        """
        slices = self._loaded_slices()
        self._gather_frozen()
        staged = _Staged(checkpoint, {}, msgspec.structs.replace(self.record))
        frame = Frame.concatenated(part.frame() for part in self._checkpointing)
        stored = (part for _, part in _parts_in(slices))
        last_time = max((part.record.time_max for part in (*stored, *self._checkpointing)), default=0)
        staged.last_day = last_time // MICROS_PER_DAY
        if len(frame):
            for slice_key, rows in rows_by_slice(frame.times, slices):
                piece = frame if rows is None else frame.take(rows)
                self._add_to_slice(staged, slice_key, slices.get(slice_key, []), piece, allowances.compaction)
        self._purge(staged, slices, allowances.purge)
        self._join_past_parts(staged, slices, allowances.compaction)
        for slice_key in self._new_tombstones & slices.keys():
            staged.slices.setdefault(slice_key, slices[slice_key])
        self._new_tombstones = _NO_SLICES
        self._record(staged, slices)
        self._staged = staged

    def _add_to_slice(
        self, staged: _Staged, slice_key: SliceKey, parts: list[Part], frame: Frame, allowance: Allowance
    ) -> None:
        """Adds rows to the parts of a slice. Splits the slice or merges parts when there are too many."""
        stored_rows = rows_in(parts)
        rows = stored_rows + len(frame)
        is_sound = not any(part.is_damaged for part in parts)
        if slice_key.level and rows > SLICE_ROWS_MAX and is_sound and allowance.take(stored_rows):
            whole = _joined(parts, frame)
            if whole is not None:
                staged.slices[slice_key] = []
                for child, child_rows in rows_by_child(whole.times, slice_key, SLICE_ROWS_MAX // 2):
                    staged.slices[child] = [self._new_part(staged, child, whole.take(child_rows))]
                return
        kept = parts
        merged: list[Part] = []
        if slice_key.end_day <= staged.last_day and is_late(len(frame), rows):
            kept, merged = joinable(parts, len(frame))
        elif len(parts) >= SLICE_PARTS_MAX:
            kept, merged = apart(parts, len(frame))
        if merged and not allowance.take(rows_in(merged)):
            kept, merged = apart(parts, len(frame)) if len(parts) >= SLICE_PARTS_LIMIT else (parts, [])
        whole = _joined(merged, frame)
        if whole is None:
            kept, whole = parts, frame
        staged.slices[slice_key] = [*kept, self._new_part(staged, slice_key, whole)]

    def _new_part(self, staged: _Staged, slice_key: SliceKey, frame: Frame) -> Part:
        number = staged.record.next_part
        staged.record.next_part += 1
        part = Part.of_frame(self._loader, frame, number=number, slice_key=self._stored_key(slice_key))
        staged.new.append(part)
        return part

    def _purge(self, staged: _Staged, slices: Slices, allowance: Allowance) -> None:
        """Drops parts without live rows and rewrites those that need it."""
        for slice_key in slices:
            parts = staged.slices.get(slice_key, slices[slice_key])
            kept = []
            for part in parts:
                if part.is_expired:
                    continue
                if is_to_be_rewritten(part) and allowance.take(part.record.rows):
                    if part.is_live:
                        kept.append(self._new_part(staged, slice_key, part.frame()))
                else:
                    kept.append(part)
            if kept != parts:
                staged.slices[slice_key] = kept

    def _join_past_parts(self, staged: _Staged, slices: Slices, allowance: Allowance) -> None:
        """Merges parts of past slices that this checkpoint has not changed."""
        for slice_key, parts in slices.items():
            if (
                slice_key.end_day > staged.last_day
                or slice_key in staged.slices
                or not needs_compaction(parts)
            ):
                continue
            kept, joined = joinable(parts, 0)
            if not allowance.take(rows_in(joined)):
                break
            frame = _joined(joined)
            if frame is not None:
                new = [self._new_part(staged, slice_key, frame)] if len(frame) else []
                staged.slices[slice_key] = [*kept, *new]

    def _record(self, staged: _Staged, slices: Slices) -> None:
        """Records what is deleted, and the metadata of everything that stays."""
        for slice_key, parts in staged.slices.items():
            staged.gone += [part for part in slices.get(slice_key, ()) if part not in parts]
            staged.tombstones[slice_key] = [(part, part.tombstones()) for part in parts]
        after = {**slices, **staged.slices}
        parts_after = [part for _, part in _parts_in(after)]
        staged.record.rows = rows_in(parts_after)
        staged.record.bytes = sum(part.record.bytes for part in parts_after)
        staged.record.has_tombstones = any(is_to_be_rewritten(part) for part in parts_after)
        staged.record.needs_compaction = any(
            needs_compaction(parts) for found, parts in after.items() if found.end_day <= staged.last_day
        )

    def write(self, txn: Writable) -> None:
        """Writes what was staged. Needs no lock: nothing it reads changes before `settle`."""
        staged = self._staged
        assert staged is not None
        for part in staged.new:
            for column_key, packed in part.pack():
                txn.put(column_key, packed)
                part.record.bytes += len(packed)
            staged.record.bytes += part.record.bytes
        for part in staged.gone:
            txn.delete_prefix(part.prefix)
        for slice_key, has_tombstones in staged.tombstones.items():
            record_key = key(Family.EVENT_SLICE, *self._stored_key(slice_key))
            if has_tombstones:
                records = [part.record_with_tombstones(tombstones) for part, tombstones in has_tombstones]
                txn.put(record_key, _encoder.encode(SliceRecord(records)))
            else:
                txn.delete(record_key)
        txn.put(key(Family.EVENT_TABLE, *self.key), _encoder.encode(staged.record))

    def settle(self) -> None:
        """Finishes the staged checkpoint, if it has committed."""
        self._loaded_slices()

    def _settle(self, staged: _Staged) -> None:
        """The outcome of the staged checkpoint, which has committed, becomes the table's state."""
        slices = self._slices
        assert slices is not None
        for slice_key, parts in staged.slices.items():
            for part in slices.pop(slice_key, ()):
                if part not in parts:
                    part.dispose()
            if parts:
                slices[slice_key] = parts
        for part in staged.new:
            part.release(keep=self._was_read)
        self._was_read = False
        for part in self._checkpointing:
            part.dispose()
        self.record = staged.record
        self._checkpointing = ()
        self._staged = None

    def unstage(self) -> bool:
        """Takes back the staged checkpoint, which has not committed: its rows have to be written again. False
        when there is none.
        """
        if self._staged is None:
            return False
        slices = self._loaded_slices()
        self._new_tombstones |= self._staged.slices.keys() & slices.keys()
        self._fresh = (*self._checkpointing, *self._fresh)
        self._checkpointing = ()
        self._staged = None
        return True


def _joined(parts: Iterable[Part], frame: Frame | None = None) -> Frame | None:
    """The live rows of parts, together with other rows; None when a part is damaged."""
    try:
        frames = [part.frame() for part in parts]
    except DataLoss:
        return None
    return Frame.concatenated(frames if frame is None else [*frames, frame])


def _parts_in(slices: Slices) -> Iterator[tuple[SliceKey, Part]]:
    return ((slice_key, part) for slice_key, parts in slices.items() for part in parts)
