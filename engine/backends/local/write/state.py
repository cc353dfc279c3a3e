"""The state built from the log: accounts, seen event ids and requests, and the applied position.

`apply` depends only on log order. It takes the state lock in chunks, so queries run in between. All other
callers take the lock for one question at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from engine.backends.base import Appended, EventRecord
from engine.backends.local.account.account import Account
from engine.backends.local.events import ColumnCache
from engine.backends.local.membership.store import Memberships
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.dedupe import DuplicatesUnknown, EventIds, Requests, event_digests
from engine.backends.local.storage.fair_lock import FairLock
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.name_table import Names, Space
from engine.backends.local.storage.page_cache import PageCache
from engine.backends.local.storage.positions import CheckpointedState, read_checkpointed, write_checkpointed
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.transactions import Writable
from engine.backends.local.storage.write_ahead_log import (
    AliasEntry,
    AppendEntry,
    BatchEntry,
    EraseEntry,
    ExpireEntry,
    ImportEntry,
    LogEntry,
    RefusedEntry,
    UserImportEntry,
)
from engine.backends.local.users.directory import by_group
from engine.clock import Stamp
from engine.errors import DeadlineExceeded, FailedPrecondition, RevisionNotReached
from engine.event_columns import EventColumns
from engine.user_columns import UserColumns
from engine.values import TIME_MIN_MICROS

IMPORT_CHUNK_ROWS = 1 << 17
"""Rows of an import applied per hold of the lock; queries run in between."""
IMPORT_CHUNK_USERS = 1 << 14
"""The same for user updates. Each becomes visible as a whole and costs several times as much."""


class State:
    """The in-memory state of one store."""

    def __init__(self, store: Store, settings: LocalSettings) -> None:
        self._store = store
        self._chunk_records = settings.apply_chunk_records
        self._lock = FairLock()
        self._reached = threading.Condition()
        self._settings = settings
        self.page_cache = PageCache(store.index)
        self._columns = ColumnCache()
        self._limit_caches()
        self.names = Names(store.index)
        self.event_ids = EventIds(store.index, settings.dedupe_horizon_days)
        self.requests = Requests(store.index, settings.request_horizon_hours)
        self.memberships = Memberships(
            store.index, self.page_cache, store.groups, settings.changes_retained_max
        )
        self._accounts: dict[str, Account] = {}
        with store.index.reading() as txn:
            self.checkpointed = read_checkpointed(txn)
        self.position = self.checkpointed.position
        self._sequence = self.checkpointed.sequence
        self.arrival = self.checkpointed.arrival
        self._settled = self.checkpointed.stamp.settled
        self._writing = CheckpointedState()

    def _limit_caches(self) -> None:
        """Sets the cache budgets by the number of users in the index."""
        with self._store.index.reading() as txn:
            users = sum(int.from_bytes(count, "little") for _, count in txn.scan(key(Family.USER_COUNT)))
        self.page_cache.limit(self._settings.page_budget_bytes(users))
        self._columns.limit(self._settings.column_budget_bytes(users))

    @contextmanager
    def locked(self, deadline: float | None = None) -> Iterator[None]:
        """Holds the state lock and a session of the page cache. Raises DeadlineExceeded when the deadline
        passes before the thread gets the lock.
        """
        if not self._lock.acquire(deadline):
            raise DeadlineExceeded("the deadline passed while waiting for the store")
        try:
            with self.page_cache.session():
                yield
        finally:
            self._lock.release()

    def find_account(self, name: str) -> Account | None:
        """The account, or None when it has never had data. Reading must not number an account: numbers follow
        log order.
        """
        known = self._accounts.get(name) or self.names.space(Space.ACCOUNT).find(name)
        return None if known is None else self._account(name)

    def accounts(self) -> list[Account]:
        """Every account with data."""
        return [self._account(name) for name in list(self.names.space(Space.ACCOUNT).numbers)]

    def _account(self, name: str) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(
                self._store, self.page_cache, self._columns, self.names, name
            )
        return account

    # --- applying -------------------------------------------------------------------------------------------

    def apply(self, position: int, entry: LogEntry) -> Appended:
        """Applies the entry at the next position and makes that revision visible. Raises FailedPrecondition
        for a refused alias and DuplicatesUnknown for events that may be duplicates. The position advances in
        both cases.
        """
        try:
            match entry:
                case AppendEntry():
                    return self._append(position, entry)
                case ImportEntry():
                    return self._import(position, entry)
                case UserImportEntry():
                    return self._import_users(position, entry)
                case EraseEntry():
                    return self._erase(position, entry)
                case AliasEntry():
                    return self._alias(position, entry)
                case ExpireEntry():
                    return self._expire(position, entry)
                case RefusedEntry():
                    self._reach(position, entry)
                    return Appended(position, 0, 0)
        except (FailedPrecondition, DuplicatesUnknown):
            self._reach(position, entry)
            raise

    def _append(self, position: int, entry: AppendEntry) -> Appended:
        with self.locked():
            first = self._first_answer(position, entry)
            if first is not None:
                return first
            account = self._account(entry.account)
            repeated = self._repeated(account, entry)
        for start in range(0, len(entry.records), self._chunk_records):
            end = start + self._chunk_records
            with self.locked():
                records = entry.records[start:end]
                touched = account.apply(records, repeated[start:end], self._sequence)
                self._sequence += len(records)
                self.memberships.mark_dirty(account.name, by_group(touched))
        return self._answered(position, entry, account, len(entry.records), sum(repeated))

    def _import(self, position: int, entry: ImportEntry) -> Appended:
        columns = entry.columns
        count = len(columns)
        with self.locked():
            first = self._first_answer(position, entry)
            if first is not None:
                return first
            account = self._account(entry.account)
            repeated = self._repeated_rows(account, entry)
        if repeated.any():
            columns = columns.take(np.flatnonzero(~repeated))
        for chunk in _chunks(columns, IMPORT_CHUNK_ROWS):
            with self.locked():
                touched = account.apply_columns(chunk, self._sequence, self._lock.yield_lock)
                self._sequence += len(chunk)
                self.memberships.mark_dirty(account.name, touched)
        return self._answered(position, entry, account, count, count - len(columns))

    def _import_users(self, position: int, entry: UserImportEntry) -> Appended:
        with self.locked():
            first = self._first_answer(position, entry)
            if first is not None:
                return first
            account = self._account(entry.account)
        for chunk in _chunks(entry.columns, IMPORT_CHUNK_USERS):
            with self.locked():
                touched = account.apply_user_columns(chunk, self._sequence)
                self._sequence += len(chunk)
                self.memberships.mark_dirty(account.name, touched)
        return self._answered(position, entry, account, len(entry.columns), 0)

    def _first_answer(self, position: int, entry: BatchEntry) -> Appended | None:
        """Returns the answer to a repeated request and advances to its position."""
        if not entry.request_id:
            return None
        number = self._account(entry.account).number
        first = self.requests.find(number, entry.request_id, _stamp(entry).settled)
        if first is None:
            return None
        self._reach(position, entry)
        return msgspec.structs.replace(first, repeated=True)

    def _answered(
        self, position: int, entry: BatchEntry, account: Account, rows: int, duplicates: int
    ) -> Appended:
        """Stores the answer to a request and advances to its position."""
        answer = Appended(position, rows - duplicates, duplicates)
        with self.locked():
            if entry.request_id:
                self.requests.add(account.number, entry.request_id, entry.arrival, answer)
            self._reach(position, entry)
        return answer

    def _repeated_rows(self, account: Account, entry: ImportEntry) -> npt.NDArray[np.bool_]:
        """For each row whether it is a duplicate event."""
        columns = entry.columns
        repeated = np.zeros(len(columns), np.bool_)
        if columns.event_ids is not None:
            numbers = [account.inputs.number(name) for name in columns.inputs.entries]
            rows = [row for row, event_id in enumerate(columns.event_ids) if event_id]
            inputs = [numbers[code] for code in columns.inputs.codes[rows].tolist()]
            digests = event_digests(account.number, inputs, [columns.event_ids[row] for row in rows])
            if rows:
                newest = int(columns.times[rows].max())
                repeated[rows] = self.event_ids.take(account.number, digests, newest, _stamp(entry))
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
            known = self.event_ids.take(account.number, digests, newest, _stamp(entry))
            for at, seen in zip(indexes, known, strict=True):
                repeated[at] = seen
        return repeated

    def _erase(self, position: int, entry: EraseEntry) -> Appended:
        with self.locked():
            account = self._account(entry.account)
            erased = [gone for user_id in entry.user_ids if (gone := account.erase(user_id)) is not None]
            self.memberships.erased(account, {ref: user_id for user_id, ref in erased}, _stamp(entry).settled)
            self._reach(position, entry)
        return Appended(position, len(erased), 0)

    def _alias(self, position: int, entry: AliasEntry) -> Appended:
        with self.locked():
            account = self._account(entry.account)
            if account.check_alias(entry.from_user_id, entry.to_user_id):
                moved = account.alias(entry.from_user_id, entry.to_user_id)
                if moved is not None:
                    before, after = moved
                    self.memberships.erased(account, {before: entry.from_user_id}, _stamp(entry).settled)
                    self.memberships.mark_dirty(account.name, by_group([after]))
            self._reach(position, entry)
        return Appended(position, 1, 0)

    def _expire(self, position: int, entry: ExpireEntry) -> Appended:
        with self.locked():
            account = self._account(entry.account)
            account.remove_events(entry.before)
            self.event_ids.expire(account.number, entry.before)
            self._reach(position, entry)
        return Appended(position, 0, 0)

    def _reach(self, position: int, entry: LogEntry) -> None:
        self.position = position
        self.arrival, self._settled = _stamp(entry)
        with self._reached:
            self._reached.notify_all()

    def wait_for(self, revision: int, deadline: float) -> None:
        """Blocks until the revision is visible. Raises RevisionNotReached when the deadline passes first."""
        with self._reached:
            while self.position < revision:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise RevisionNotReached(
                        f"revision {revision} was not reached in time; the newest is {self.position}",
                        metadata={"revision": str(self.position)},
                    )
                self._reached.wait(remaining)

    # --- checkpointing
    # --------------------------------------------------------------------------------------------

    def prepare(self, txn: Writable) -> None:
        """Writes dirty pages, and collects everything else that is not in the index for `write`. Others may
        read in between. Nothing may be applied before this returns.
        """
        self._writing = CheckpointedState(self.position, self._sequence, self.arrival, self._settled)
        for part in (self.names, self.event_ids, self.requests):
            part.prepare()
        for account in list(self._accounts.values()):
            account.prepare(self._lock.yield_lock)
        self.page_cache.write(txn, self._lock.yield_lock)

    def write(self, txn: Writable) -> None:
        """Writes what `prepare` collected, with the position it reflects. Needs no lock."""
        self.names.write(txn)
        self.event_ids.write(txn, self._writing.stamp)
        self.requests.write(txn, self._writing.stamp.settled)
        for account in list(self._accounts.values()):
            account.write(txn)
        write_checkpointed(txn, self._writing)

    def commit(self) -> None:
        """Finishes a checkpoint that has committed."""
        for part in self._checkpointing_parts():
            part.commit()
        self.checkpointed = self._writing
        self._limit_caches()

    def rollback(self) -> None:
        """Takes back a checkpoint that did not commit; its changes are still to be written."""
        for part in self._checkpointing_parts():
            part.rollback()

    def _checkpointing_parts(self) -> list[_CheckpointingPart]:
        return [*self._accounts.values(), self.page_cache, self.names, self.event_ids, self.requests]


def _stamp(entry: LogEntry) -> Stamp:
    return Stamp(entry.arrival, entry.arrival if entry.settled is None else entry.settled)


C = TypeVar("C", EventColumns, UserColumns)


def _chunks(columns: C, rows_max: int) -> Iterator[C]:
    """The rows in order, in chunks."""
    count = len(columns)
    for start in range(0, count, rows_max):
        rows = np.arange(start, min(start + rows_max, count))
        yield columns if len(rows) == count else columns.take(rows)


class _CheckpointingPart(Protocol):
    def commit(self) -> None: ...

    def rollback(self) -> None: ...
