"""The write-ahead log: acknowledged data that is not checkpointed yet.

It is an LMDB environment of its own with one value per entry, keyed by position. Positions start at 1, never
repeat, and are the store's revisions. Pending entries are committed together, with one fsync.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import msgspec

from engine.backends.base import NameSpan, Record
from engine.backends.local.storage.compression import compressed, decompressed
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.positions import read_reach, write_trimmed
from engine.criteria.model import EventType
from engine.errors import DataLoss, LimitExceeded
from engine.event_columns import EventColumns
from engine.measures import Durations
from engine.stalls import StallLog
from engine.user_columns import UserColumns
from engine.values import Micros


class AppendEntry(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    """A batch of records. `arrival` and `settled` are its `engine.clock.Stamp`; entries of older logs have
    only `arrival`.
    """

    account: str
    arrival: Micros
    request_id: str
    records: tuple[Record, ...]
    settled: Micros | None = None


class ImportEntry(msgspec.Struct, frozen=True, array_like=True, tag="import"):
    """A batch of events as columns."""

    account: str
    arrival: Micros
    request_id: str
    columns: EventColumns
    settled: Micros | None = None


class UserImportEntry(msgspec.Struct, frozen=True, array_like=True, tag="import_users"):
    """A batch of user updates as columns."""

    account: str
    arrival: Micros
    request_id: str
    columns: UserColumns
    settled: Micros | None = None


class EraseEntry(msgspec.Struct, frozen=True, array_like=True, tag="erase"):
    """Users to be erased."""

    account: str
    arrival: Micros
    user_ids: tuple[str, ...]
    settled: Micros | None = None


class AliasEntry(msgspec.Struct, frozen=True, array_like=True, tag="alias"):
    """`from` becomes `to`."""

    account: str
    arrival: Micros
    from_user_id: str
    to_user_id: str
    settled: Micros | None = None


class ExpireEntry(msgspec.Struct, frozen=True, array_like=True, tag="expire"):
    """Removal of the events before an instant that precede this entry: all, or those of some names."""

    account: str
    arrival: Micros
    before: Micros
    settled: Micros | None = None
    names: NameSpan | None = None


class ForgetEntry(msgspec.Struct, frozen=True, array_like=True, tag="forget"):
    """What is left of an account, or of one of its workspaces or inputs, is removed; it has no users."""

    account: str
    arrival: Micros
    name: str
    settled: Micros | None = None


class RefusedEntry(msgspec.Struct, frozen=True, array_like=True, tag="refused"):
    """The entry at an earlier position was refused after it was logged: none of it was applied."""

    account: str
    arrival: Micros
    position: int
    settled: Micros | None = None


class MapEntry(msgspec.Struct, frozen=True, array_like=True, tag="map"):
    """A table of others has the events of an input from now on. `columns`: its type by column. Only gateways
    of clusters log this entry and the two that follow.
    """

    account: str
    arrival: Micros
    input: str
    table: str
    columns: dict[str, str]
    settle_s: float
    settled: Micros | None = None


class UnmapEntry(msgspec.Struct, frozen=True, array_like=True, tag="unmap"):
    """The events of a table of others count no more."""

    account: str
    arrival: Micros
    input: str
    settled: Micros | None = None


class FollowedUser(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What rows of a table of others say of one id. `kinds` are places in `FollowEntry.kinds`."""

    user_id: str
    first: Micros
    last: Micros
    kinds: tuple[int, ...]


class FollowEntry(msgspec.Struct, frozen=True, array_like=True, tag="follow"):
    """Rows of a table of others count from now on: those up to a mark, and of this mark up to a partition.
    The rows stay where they are. `source` is the revision at which the table was mapped.
    """

    account: str
    arrival: Micros
    source: int
    mark: int
    partition: int
    rows: int
    """All rows up to there, those that are wrong among them."""
    events: int
    """Those that are not wrong."""
    kinds: tuple[tuple[str, EventType], ...]
    """Names and types of the new events."""
    users: tuple[FollowedUser, ...]
    spans: tuple[int, ...]
    """The spans of time that have the new events (`zones.SPAN_MICROS`)."""
    gives: Literal["more", "users", "anew"]
    """More rows; or, of rows that are counted again, users alone, and with the last entry what counts."""
    settled: Micros | None = None


BatchEntry: TypeAlias = AppendEntry | ImportEntry | UserImportEntry
"""A logged write. A batch may carry a request id."""


class SharedEntry(msgspec.Struct, frozen=True, array_like=True, tag="shared"):
    """Batches of several callers that become visible together, in order. `arrival` and `settled` are those of
    the last.
    """

    arrival: Micros
    batches: tuple[BatchEntry, ...]
    settled: Micros | None = None

    @property
    def account(self) -> str:
        """The account of the first batch. Others may be of other accounts."""
        return self.batches[0].account


MappingEntry: TypeAlias = MapEntry | UnmapEntry | FollowEntry
"""A change of what tables of others give."""

LogEntry: TypeAlias = (
    BatchEntry
    | SharedEntry
    | EraseEntry
    | AliasEntry
    | ExpireEntry
    | ForgetEntry
    | RefusedEntry
    | MappingEntry
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[LogEntry] = msgspec.msgpack.Decoder(LogEntry)


RESERVE_SHARE = 1 / 16
"""Share of the log's file kept free: deleting entries needs pages too."""
CHECKPOINT_AT_ROOM_SHARE = 1 / 2
LOG_IS_FULL = "the log of the store is full"
FULL_SHOWN_S = 5.0
"""How long a log counts as full after an attempt to append."""
STALL_S = 1.0
"""A commit that takes this long is logged: the disk is slow."""

_stalls = StallLog(logging.getLogger(__name__), "committing to the log", STALL_S)


class WriteAheadLog:
    """The log of one store. One thread appends at a time."""

    def __init__(self, environment: Environment, after: int) -> None:
        """`after` is the checkpointed position: entries up to it are in the index."""
        self._environment = environment
        with environment.reading() as txn:
            reach = read_reach(txn)
        self._reserve_bytes = int(environment.figures().limit_bytes * RESERVE_SHARE)
        self._position = max(after, reach.newest or 0)
        self._trimmed = self._position if reach.trimmed is None else reach.trimmed
        self._full_until = 0.0
        self.commits = Durations()
        """How long appending took, `fsync` included."""
        self.appended_bytes = 0
        """Bytes of all entries that this process has appended or replayed."""

    @property
    def position(self) -> int:
        """The position of the latest entry."""
        return self._position

    def append(self, encoded: Sequence[bytes]) -> int:
        """Commits entries together and returns the position of the first; the others follow it.

        Raises LimitExceeded when the log is full, with nothing written.
        """
        try:
            if self._environment.room_bytes - sum(map(len, encoded)) < self._reserve_bytes:
                raise LimitExceeded(LOG_IS_FULL, reason="STORE_FULL")
            return self._append(encoded)
        except LimitExceeded:
            self._full_until = time.monotonic() + FULL_SHOWN_S
            raise

    def _append(self, encoded: Sequence[bytes]) -> int:
        first = self._position + 1
        began = time.monotonic()
        with self._environment.writing() as txn:
            for position, entry in enumerate(encoded, first):
                txn.put(key(Family.LOG, position), entry)
        seconds = time.monotonic() - began
        self.commits.add(seconds)
        _stalls.report(seconds)
        self._full_until = 0.0
        self._position += len(encoded)
        self.appended_bytes += sum(map(len, encoded))
        return first

    @property
    def is_full(self) -> bool:
        """Whether the last attempt to append found no room. It turns False again after a while, so that
        waiting writers try.
        """
        return time.monotonic() < self._full_until

    def replay(self, after: int) -> Iterator[tuple[int, LogEntry]]:
        """Every entry above a position, in order. Raises DataLoss when one is damaged or missing."""
        expected = after + 1
        while expected <= self._position:
            with self._environment.reading() as txn:
                stored = txn.get(key(Family.LOG, expected))
                if stored is None:
                    raise DataLoss(
                        f"entry {expected} of the log is missing", metadata={"key_family": Family.LOG.name}
                    )
                entry = decode_entry(stored)
                self.appended_bytes += len(stored)
            yield expected, entry
            expected += 1

    def is_refused(self, position: int) -> bool:
        """Whether a later entry records that this one was refused."""
        return any(
            isinstance(entry, RefusedEntry) and entry.position == position
            for _, entry in self.replay(position)
        )

    @property
    def is_filling(self) -> bool:
        """Whether it is time to checkpoint, so that the log can be trimmed before it is full."""
        return (
            self._environment.room_bytes < self._environment.figures().limit_bytes * CHECKPOINT_AT_ROOM_SHARE
        )

    @property
    def trimmed(self) -> int:
        """Entries up to this position are deleted."""
        return self._trimmed

    def trim(self, through: int) -> None:
        """Deletes entries up to and including a position."""
        if through <= self._trimmed:
            return
        with self._environment.writing() as txn:
            txn.delete_prefix(key(Family.LOG), key(Family.LOG, through + 1))
            write_trimmed(txn, through)
        self._trimmed = through


def rows_of(batch: BatchEntry) -> int:
    """The number of records of a batch."""
    return len(batch.records) if isinstance(batch, AppendEntry) else len(batch.columns)


def accounts_of(entry: LogEntry) -> set[str]:
    """The accounts that an entry changes."""
    return {batch.account for batch in entry.batches} if isinstance(entry, SharedEntry) else {entry.account}


def encode_entry(entry: LogEntry) -> bytes:
    """The bytes of an entry, as logged."""
    return compressed(_encoder.encode(entry))


def decode_entry(stored: memoryview) -> LogEntry:
    """The inverse of `encode_entry`."""
    return _decoder.decode(decompressed(stored))
