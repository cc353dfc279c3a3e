"""Opening the store: two LMDB environments behind one file lock, transactions and checksummed values.

A store is a directory:

=============  ==========================================================================================
`lock`         held (flock) by the process that owns the store, for as long as it lives
`index/`       LMDB: everything that was folded
`log/`         LMDB: the write-ahead log, apart so that its commits never wait for a fold
=============  ==========================================================================================

LMDB allows one write transaction at a time in each environment and any number of readers, who see the state
of the last commit before they began. A commit has reached the disk (fsync) when `writing()` ends.

The memory map is opened at its full size at once. It takes address space, neither memory nor disk, and so the
file grows as it fills without ever being mapped anew, which would end the transactions that are open.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import lmdb
import msgspec
import xxhash

from engine.errors import DataLoss, LimitExceeded, StoreUnavailable
from engine.local.keys import Family, family_of, key
from engine.upkeep import StoreFile

FORMAT_VERSION = 5

GROUPS_DEFAULT = 16
GROUPS_MAX = 64

MAP_BYTES_DEFAULT = 256 << 30
READERS_MAX = 512

COPY_MAP_BYTES = 1 << 40
"""Address space for a copy while it is written: more than any store takes."""
COPY_BATCH_BYTES = 8 << 20
"""What a copy writes in one transaction, all of it in memory until then."""

CHECKSUM_BYTES = 8

STORE_ID_BYTES = 16
SEED_BITS = 64

LOCK_FILE = "lock"
DATA_FILE, READERS_FILE = "data.mdb", "lock.mdb"
"""LMDB's own names, in the directory of each environment."""

SHORT_WRITE_ROOM_BYTES = 64 << 20
"""With less room than this a failed write is taken to have been cut short: more than LMDB writes at once."""

META_PAGES = 2
STAT_BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own."""

_HEADER_KEY = key(Family.META, b"header")

# What LMDB raises when the pages of its tree, which our checksums do not cover, make no sense.
_BROKEN_TREE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)


# What the system says when a file cannot grow: the disk, a quota or a limit of the process is in the way.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreHeader(msgspec.Struct, frozen=True):
    """What is written once, in both environments, when a store is created. `seed` keys the hashes of user
    ids: 64 random bits that the store tells nobody.
    """

    format_version: int
    store_id: str
    groups: int
    seed: int


class ReadTransaction:
    """One consistent state of an environment. Values are views into the memory map: they hold until the
    transaction ends, or, while writing, until the next change; copy what must live longer.
    """

    def __init__(self, txn: lmdb.Transaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> memoryview | None:
        """The value, or None. Raises DataLoss when it fails its checksum."""
        stored = self._txn.get(key)
        return None if stored is None else _verified(key, stored)

    def contains(self, key: bytes) -> bool:
        """Whether the key has a value, without reading it."""
        return self._txn.cursor().set_key(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, memoryview]]:
        """Every pair whose key has the prefix and is at or after `start`, in key order, each value
        verified.
        """
        cursor = self._txn.cursor()
        more = cursor.set_range(max(prefix, start))
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found, _verified(found, cursor.value())
            more = cursor.next()

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """Every key with the prefix, in order, without reading values."""
        cursor = self._txn.cursor()
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix):
                return
            yield found
            more = cursor.next()

    def stored(self) -> Iterator[tuple[bytes, memoryview]]:
        """Every pair as it is stored, the checksum, which is verified, in front of the value."""
        for found, stored in self._txn.cursor():
            at = bytes(found)
            _verified(at, stored)
            yield at, memoryview(stored)

    def sizes(self, prefix: bytes) -> Iterator[int]:
        """For every key with the prefix the bytes of the key and of what is stored under it, in order,
        without reading values.
        """
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                if bytes(found[: len(prefix)]) != prefix:
                    return
                yield len(found) + len(stored)

    def walk(self, prefix: bytes) -> Iterator[tuple[bytes, int, memoryview | None]]:
        """Every key with the prefix, in order, the bytes of key and stored value, and the value, None where
        it fails its checksum.
        """
        cursor = self._txn.cursor()
        if cursor.set_range(prefix):
            for found, stored in cursor.iternext():
                at = bytes(found)
                if not at.startswith(prefix):
                    return
                yield at, len(at) + len(stored), _sound(stored)

    def count(self) -> int:
        """How many keys there are."""
        return int(self._txn.stat()["entries"])

    def last(self, prefix: bytes) -> tuple[bytes, memoryview] | None:
        """The pair with the greatest key that has the prefix, or None."""
        cursor = self._txn.cursor()
        after = _successor(prefix)
        found = cursor.prev() if after is not None and cursor.set_range(after) else cursor.last()
        if not found:
            return None
        at = bytes(cursor.key())
        return (at, _verified(at, cursor.value())) if at.startswith(prefix) else None


class WriteTransaction(ReadTransaction):
    """Changes that all take effect when the block ends without an exception, or not at all."""

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """Stores the value under a checksum, replacing what was there."""
        self._txn.put(key, xxhash.xxh3_64_digest(value) + bytes(value))

    def delete(self, key: bytes) -> bool:
        """Removes the key; False when there was none."""
        return self._txn.delete(key)

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> int:
        """Removes every key with the prefix (those below `end`, when given) and answers how many."""
        cursor = self._txn.cursor()
        removed = 0
        more = cursor.set_range(prefix)
        while more:
            found = bytes(cursor.key())
            if not found.startswith(prefix) or (end is not None and found >= end):
                break
            removed += 1
            more = cursor.delete()
        return removed


class Writable(Protocol):
    """What takes changes: a write transaction, or a buffer that is written later."""

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None: ...

    def delete(self, key: bytes) -> object: ...

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> object: ...


class WriteBuffer:
    """Changes collected while the state they come from is locked, to be written without that lock."""

    def __init__(self) -> None:
        self._changes: list[tuple[bytes, bytes | None, bool]] = []

    def put(self, key: bytes, value: bytes | bytearray | memoryview) -> None:
        """As in a transaction. The value is copied unless it is bytes."""
        self._changes.append((key, bytes(value), False))

    def delete(self, key: bytes) -> None:
        """As in a transaction."""
        self._changes.append((key, None, False))

    def delete_prefix(self, prefix: bytes, end: bytes | None = None) -> None:
        """As in a transaction. Raises ValueError for a prefix with an end, which nobody folds."""
        if end is not None:
            raise ValueError("a buffer deletes whole prefixes only")
        self._changes.append((prefix, None, True))

    def write_to(self, txn: WriteTransaction) -> None:
        """Makes the changes, in the order they were collected."""
        for stored, value, is_prefix in self._changes:
            if value is not None:
                txn.put(stored, value)
            elif is_prefix:
                txn.delete_prefix(stored)
            else:
                txn.delete(stored)


class Readable(Protocol):
    """What read transactions come from."""

    def reading(self) -> AbstractContextManager[ReadTransaction]: ...


class Environment:
    """One LMDB environment."""

    def __init__(
        self, directory: Path, *, map_bytes: int = MAP_BYTES_DEFAULT, read_only: bool = False
    ) -> None:
        """Opens the environment in a directory or makes one there; `read_only` neither makes nor changes
        anything, and raises StoreUnavailable (STORE_MISSING) when there is none.
        """
        self._file = directory / DATA_FILE
        self._is_read_only = read_only
        if read_only:
            self._env = _opened_for_reading(directory)
            return
        directory.mkdir(parents=True, exist_ok=True)
        with _translated():
            self._env = lmdb.open(str(directory), map_size=map_bytes, max_readers=READERS_MAX, metasync=True)
            # Slots of readers that died without closing would keep old pages from being reused.
            self._env.reader_check()

    def reading(self) -> AbstractContextManager[ReadTransaction]:
        """A read transaction for the length of the block. Keep blocks short: the pages a reader may still
        see are not reused, and the file grows meanwhile.
        """
        return self._reading()

    def writing(self) -> AbstractContextManager[WriteTransaction]:
        """The write transaction: waits for the one before it, commits with fsync at the end of the block, and
        on an exception leaves nothing behind. Raises LimitExceeded (STORE_FULL) when map or disk is full.
        """
        return self._writing()

    @contextmanager
    def _reading(self) -> Iterator[ReadTransaction]:
        with _translated(), self._env.begin(buffers=True) as txn:
            yield ReadTransaction(txn)

    @contextmanager
    def _writing(self) -> Iterator[WriteTransaction]:
        with _translated(self._file), self._env.begin(write=True, buffers=True) as txn:
            yield WriteTransaction(txn)

    def copy_to(self, directory: Path) -> None:
        """Writes a compact copy of the last committed state into a directory while reads and writes go on."""
        with self.reading() as txn:
            write_copy(txn, directory)

    @property
    def file(self) -> Path:
        """The file that is mapped."""
        return self._file

    def disk_bytes(self) -> int:
        """How much of the file is in use or waiting for reuse."""
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    @property
    def room_bytes(self) -> int:
        """How much more fits under the limit of the file, in pages that are free or not there yet."""
        figures = self.figures()
        return figures.limit_bytes - figures.used_bytes

    def figures(self) -> StoreFile:
        """What the file takes and how much of it is free. The pages that list the free ones count as free."""
        info, stat, file = self._env.info(), self._env.stat(), self._file.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        used_bytes = (pages + META_PAGES) * stat["psize"]
        return StoreFile(
            name=self._file.parent.name,
            disk_bytes=file.st_blocks * STAT_BLOCK_BYTES,
            file_bytes=file.st_size,
            used_bytes=used_bytes,
            free_bytes=max(0, (info["last_pgno"] + 1) * stat["psize"] - used_bytes),
            limit_bytes=0 if self._is_read_only else info["map_size"],
        )

    def close(self) -> None:
        """Unmaps the file. No transaction may be open."""
        self._env.close()


def _opened_for_reading(directory: Path) -> lmdb.Environment:
    if not (directory / DATA_FILE).is_file():
        raise StoreUnavailable(f"there is no store in {directory.parent}", reason="STORE_MISSING")
    # Readers beside an owner must be known to it. In a backup, which nobody ever owned, nothing is written.
    is_shared = os.access(directory / READERS_FILE, os.W_OK)
    with _translated():
        return lmdb.open(str(directory), readonly=True, create=False, lock=is_shared, max_readers=READERS_MAX)


def write_copy(source: ReadTransaction, directory: Path, rest: Callable[[], None] = lambda: None) -> None:
    """Writes everything that a transaction sees into a new environment in a directory, synced at the end.
    `rest` is called now and then and may raise.

    Keys and values are written anew, in order. LMDB's own copy takes its pages over, whose inner ones keep
    keys that were deleted long ago: ids of erased users, for example. Each value is verified on the way:
    raises DataLoss rather than copy a damaged one.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _translated():
        target = lmdb.open(str(directory), map_size=COPY_MAP_BYTES, lock=False, sync=False)
    try:
        pairs = source.stored()
        with _translated(directory / DATA_FILE):
            more = True
            while more:
                with target.begin(write=True) as txn:
                    batch = _Batch(pairs)
                    txn.cursor().putmulti(batch, append=True)
                    more = batch.bytes >= COPY_BATCH_BYTES
                rest()
            target.sync(True)
    finally:
        target.close()


class _Batch:
    """Pairs up to `COPY_BATCH_BYTES`, and how many bytes they had."""

    def __init__(self, pairs: Iterator[tuple[bytes, memoryview]]) -> None:
        self._pairs = pairs
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        for found, stored in self._pairs:
            yield found, stored
            self.bytes += len(found) + len(stored)
            if self.bytes >= COPY_BATCH_BYTES:
                return


class Store:
    """The two environments of a store and what was fixed when it was created."""

    def __init__(
        self, directory: Path, header: StoreHeader, index: Environment, log: Environment, lock: int
    ) -> None:
        self.directory = directory
        self.store_id = header.store_id
        self.groups = header.groups
        self.seed = header.seed
        self.index = index
        self.log = log
        self._lock = lock

    @classmethod
    def open(
        cls, directory: Path, *, groups: int = GROUPS_DEFAULT, map_bytes: int = MAP_BYTES_DEFAULT
    ) -> Store:
        """Opens the store in `directory`, or creates it there with that number of groups (a power of two up
        to `GROUPS_MAX`; an existing store keeps its own).

        Raises StoreUnavailable when another process owns the store (STORE_LOCKED) or its format is not this
        version's (STORE_FORMAT), and DataLoss when one of its environments is missing or damaged.
        """
        if groups not in _GROUPS_ALLOWED:
            raise ValueError(f"the number of groups is a power of two from 1 to {GROUPS_MAX}, not {groups}")
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory / LOCK_FILE)
        opened: list[Environment] = []
        try:
            log = Environment(directory / "log", map_bytes=map_bytes)
            opened.append(log)
            index = Environment(directory / "index", map_bytes=map_bytes)
            opened.append(index)
            header = _header(log, index, groups)
        except BaseException:
            for environment in opened:
                environment.close()
            os.close(lock)
            raise
        return cls(directory, header, index, log, lock)

    @staticmethod
    @contextmanager
    def owned(directory: Path) -> Iterator[None]:
        """For the length of the block nobody else owns the store in the directory. Raises StoreUnavailable
        (STORE_LOCKED) when somebody does.
        """
        lock = _lock(directory / LOCK_FILE)
        try:
            yield
        finally:
            os.close(lock)

    def close(self) -> None:
        """Closes both environments and lets another process own the store. Closing twice is allowed."""
        if self._lock < 0:
            return
        self.index.close()
        self.log.close()
        os.close(self._lock)
        self._lock = -1


_GROUPS_ALLOWED = tuple(1 << bits for bits in range(GROUPS_MAX.bit_length()))


def _sound(stored: bytes | memoryview) -> memoryview | None:
    """The value without its checksum; None when the two do not fit."""
    value = memoryview(stored)[CHECKSUM_BYTES:]
    return value if xxhash.xxh3_64_digest(value) == stored[:CHECKSUM_BYTES] else None


def _verified(key: bytes, stored: bytes | memoryview) -> memoryview:
    value = _sound(stored)
    if value is None:
        family = family_of(key).name
        raise DataLoss(
            f"a stored value of the family {family} fails its checksum", metadata={"key_family": family}
        )
    return value


def _successor(prefix: bytes) -> bytes | None:
    """The least key above every key with the prefix; None when there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else None


def _is_short_of_room(file: Path) -> bool:
    """Whether the file cannot grow by much: the disk is nearly full, or the process may not write more."""
    disk = os.statvfs(file.parent)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = disk.f_bavail * disk.f_frsize
    if limit != resource.RLIM_INFINITY:
        room = min(room, limit - file.stat().st_size)
    return room < SHORT_WRITE_ROOM_BYTES


@contextmanager
def _translated(file: Path | None = None) -> Iterator[None]:
    """Turns what LMDB raises into the engine's errors; `file` is the one that is written."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise LimitExceeded("the store is full", reason="STORE_FULL") from error
    except _BROKEN_TREE as error:
        raise DataLoss("the pages of the store are damaged") from error
    except lmdb.Error as error:
        # A write that was cut short for want of room is told as any other failure to write.
        is_short = error.code == errno.EIO and file is not None and _is_short_of_room(file)
        if error.code in _NO_ROOM or is_short:
            raise LimitExceeded("the store is full", reason="STORE_FULL") from error
        raise


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreUnavailable(
            f"another process owns the store in {path.parent}", reason="STORE_LOCKED"
        ) from error
    return descriptor


def _header(log: Environment, index: Environment, groups: int) -> StoreHeader:
    """The store's header, written first when there is none.

    The log's copy is written first: an index without a log has lost writes, a log without an index is a
    creation that was interrupted.
    """
    log_header, index_header = read_header(log), read_header(index)
    if log_header is None and index_header is not None:
        raise DataLoss("the store's log is missing", metadata={"key_family": Family.META.name})
    if log_header is None:
        store_id, seed = secrets.token_hex(STORE_ID_BYTES), secrets.randbits(SEED_BITS)
        log_header = StoreHeader(FORMAT_VERSION, store_id, groups, seed)
        write_header(log, log_header)
    if index_header is None:
        write_header(index, log_header)
    elif index_header != log_header:
        raise DataLoss("log and index belong to different stores", metadata={"key_family": Family.META.name})
    return log_header


def read_header(environment: Environment) -> StoreHeader | None:
    """The header of an environment, None when there is none yet. Raises StoreUnavailable (STORE_FORMAT) when
    its format is not this version's.
    """
    with environment.reading() as txn:
        stored = txn.get(_HEADER_KEY)
        if stored is None:
            return None
        fields = msgspec.msgpack.decode(stored)
    if fields.get("format_version") != FORMAT_VERSION:
        raise StoreUnavailable(
            f"the store has format version {fields.get('format_version')}, this build reads {FORMAT_VERSION}",
            reason="STORE_FORMAT",
        )
    return msgspec.convert(fields, StoreHeader)


def write_header(environment: Environment, header: StoreHeader) -> None:
    """Writes the header of an environment."""
    with environment.writing() as txn:
        txn.put(_HEADER_KEY, msgspec.msgpack.encode(header))
