"""The state of an embedded store: how batches are applied to its accounts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from engine.backends.base import Appended, EventRecord, Record
from engine.backends.local.account.account import Account
from engine.backends.local.account.readers import Touched
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.dedupe import event_digests
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    BatchEntry,
    ImportEntry,
    UserImportEntry,
)
from engine.backends.local.write.state import State, stamp_of
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import TIME_MIN_MICROS

IMPORT_CHUNK_ROWS = 1 << 15
"""Rows of an import applied per hold of the lock; queries run in between."""
IMPORT_CHUNK_USERS = 1 << 10
"""The same for user updates. Each becomes visible as a whole and costs several times as much."""


class LocalState(State[Account]):
    """The in-memory state of one embedded store."""

    def __init__(self, store: Store, settings: LocalSettings, check: Callable[[], None]) -> None:
        """`check` raises when the store is closed or has failed."""
        super().__init__(store, settings, check, Account)

    def _move(self, position: int, account: Account, entry: AliasEntry) -> None:
        with self.locked():
            account.seek(entry.from_user_id, self._lock.yield_lock)

    def _take_batch(self, position: int, entry: BatchEntry) -> Appended:
        """Applies what is new of a batch, chunk by chunk; a small one while the lock is held once, since each
        time may mean to wait for a long read.
        """
        with self.locked():
            first = self._first_answer(entry)
            if first is not None:
                self._reach(position, entry)
                return first
            account = self._account(entry.account)
            rows, duplicates, chunks = self._chunks_of(account, entry)
            if rows <= self._chunk_records:
                for chunk in chunks:
                    self._apply(account, *chunk)
                return self._finished(position, entry, account, rows, duplicates)
        for chunk in chunks:
            with self.locked():
                self._apply(account, *chunk)
        with self.locked():
            return self._finished(position, entry, account, rows, duplicates)

    def _apply(self, account: Account, count: int, apply: Callable[[int], Touched]) -> None:
        touched = apply(self._sequence)
        self._sequence += count
        self.memberships.mark_dirty(account.name, touched)

    def _finished(
        self, position: int, entry: BatchEntry, account: Account, rows: int, duplicates: int
    ) -> Appended:
        answer = self._answered(position, entry, account, rows, duplicates)
        self._reach(position, entry)
        return answer

    def _chunks_of(self, account: Account, entry: BatchEntry) -> tuple[int, int, Iterator[_Chunk]]:
        """Number of rows, of duplicates among them, and how to apply the others."""
        match entry:
            case AppendEntry(records=records):
                repeated = self._repeated(account, entry)
                chunks = _record_chunks(account, records, repeated, self._chunk_records)
                return len(records), sum(repeated), chunks
            case ImportEntry(columns=columns):
                is_repeated = self._repeated_rows(account, entry)
                fresh = columns.take(np.flatnonzero(~is_repeated)) if is_repeated.any() else columns
                apply = functools.partial(account.apply_columns, yield_lock=self._lock.yield_lock)
                return (
                    len(columns),
                    len(columns) - len(fresh),
                    _column_chunks(fresh, IMPORT_CHUNK_ROWS, apply),
                )
            case UserImportEntry(columns=updates):
                return (
                    len(updates),
                    0,
                    _column_chunks(updates, IMPORT_CHUNK_USERS, account.apply_user_columns),
                )

    def _repeated_rows(self, account: Account, entry: ImportEntry) -> npt.NDArray[np.bool_]:
        """For each row whether it is a duplicate event. Others may read in between."""
        columns = entry.columns
        repeated = np.zeros(len(columns), np.bool_)
        if columns.event_ids is not None:
            numbers = [account.inputs.number(name) for name in columns.inputs.entries]
            rows = [row for row, event_id in enumerate(columns.event_ids) if event_id]
            inputs = [numbers[code] for code in columns.inputs.codes[rows].tolist()]
            digests = event_digests(account.number, inputs, [columns.event_ids[row] for row in rows])
            self._lock.yield_lock()
            if rows:
                newest = int(columns.times[rows].max())
                repeated[rows] = self.event_ids.take(
                    account.number, digests, newest, stamp_of(entry), self._lock.yield_lock
                )
        return repeated

    def _repeated(self, account: Account, entry: AppendEntry) -> list[bool]:
        """For each record whether it is a duplicate event."""
        repeated = [False] * len(entry.records)
        indexes = []
        inputs = []
        event_ids = []
        newest = TIME_MIN_MICROS
        for at, record in enumerate(entry.records):
            if type(record) is EventRecord and record.event_id:
                indexes.append(at)
                inputs.append(account.inputs.number(record.input))
                event_ids.append(record.event_id)
                newest = max(newest, record.time)
        if indexes:
            digests = event_digests(account.number, inputs, event_ids)
            known = self.event_ids.take(account.number, digests, newest, stamp_of(entry))
            for at, seen in zip(indexes, known, strict=True):
                repeated[at] = seen
        return repeated


_Chunk: TypeAlias = tuple[int, Callable[[int], Touched]]
"""Number of rows, and what applies them: called with the arrival sequence number before the first, it answers
what it touched.
"""


def _record_chunks(
    account: Account, records: Sequence[Record], repeated: Sequence[bool], records_max: int
) -> Iterator[_Chunk]:
    for start in range(0, len(records), records_max):
        chunk = slice(start, start + records_max)
        apply = functools.partial(account.apply, records[chunk], repeated[chunk])
        yield len(records[chunk]), apply


C = TypeVar("C", EventColumns, UserColumns)


def _column_chunks(columns: C, rows_max: int, apply: Callable[[C, int], Touched]) -> Iterator[_Chunk]:
    count = len(columns)
    for start in range(0, count, rows_max):
        rows = np.arange(start, min(start + rows_max, count))
        chunk = columns if len(rows) == count else columns.take(rows)
        yield len(chunk), functools.partial(apply, chunk)
