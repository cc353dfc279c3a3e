"""Which process owns a store, and which store a directory holds.

The file `lock` is locked (flock) by the process that owns the store, for as long as it lives. It also holds
the identity of the store: its id, its location, and whether an operation on the directory is incomplete. The
file is written in place, since a rename would release the lock. It fits a disk sector, which is written as a
whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

import msgspec
import xxhash

from engine.backends.local.storage.lmdb_errors import NO_ROOM
from engine.errors import DataLoss, LimitExceeded, StoreUnavailable

LOCK_FILE = "lock"
IDENTITY_BYTES = 512
"""Size of the file: one sector."""

_FS_IOC_GETVERSION = 0x80087601
"""Reads the generation of an inode: a number that the file system assigns when it allocates the inode."""


class Stage(Enum):
    """Progress of creating, restoring, adopting or moving the store. Only a COMPLETE store is served."""

    CREATING = "creating"
    RESTORING = "restoring"
    ADOPTING = "adopting"
    MOVING = "moving"
    """Its rows are on their way into a cluster, and it is to be the gateway's."""
    COMPLETE = "complete"


class Location(msgspec.Struct, frozen=True):
    """The location of a directory, as recorded in its lock file. It is unchanged when the directory is
    renamed or its volume is mounted elsewhere, and on a snapshot of the volume. A copy has a different one.

    The device is left out: its number changes when a volume is remounted. `generation` is None when the file
    system has none; then nothing is concluded from it.
    """

    inode: int
    generation: int | None = None

    def is_same(self, other: Location) -> bool:
        """Whether both may be the same location."""
        generations = {self.generation, other.generation} - {None}
        return self.inode == other.inode and len(generations) <= 1


class Identity(msgspec.Struct, frozen=True):
    """The content of a lock file. `previous_id` is the id that an adoption replaces."""

    store_id: str
    location: Location = msgspec.field(name="place")
    """Stored as `place`."""
    stage: Stage = Stage.COMPLETE
    previous_id: str = ""


class StoreLock:
    """The lock of a store, held until `release`."""

    def __init__(self, directory: Path) -> None:
        """Takes the lock; creates its file when there is none. Raises StoreUnavailable (STORE_LOCKED) when
        another process holds it.
        """
        self._directory = directory
        self._descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise StoreUnavailable(
                f"another process owns the store in {directory}: stop it first, or name another directory",
                reason="STORE_LOCKED",
            ) from error

    @property
    def location(self) -> Location:
        """The location of the lock file."""
        try:
            answer = fcntl.ioctl(self._descriptor, _FS_IOC_GETVERSION, bytes(8))
        except OSError:
            return Location(os.fstat(self._descriptor).st_ino)
        return Location(os.fstat(self._descriptor).st_ino, int.from_bytes(answer[:4], "little"))

    def identity(self) -> Identity | None:
        """As `read_identity`."""
        return _decoded(os.pread(self._descriptor, IDENTITY_BYTES, 0), self._directory)

    def write(self, store_id: str, stage: Stage = Stage.COMPLETE, previous_id: str = "") -> None:
        """Replaces the identity, with this location, and syncs it. Raises LimitExceeded (STORE_FULL)."""
        content = msgspec.json.encode(Identity(store_id, self.location, stage, previous_id))
        line = content + b" " + xxhash.xxh3_64_hexdigest(content).encode()
        try:
            os.pwrite(self._descriptor, line.ljust(IDENTITY_BYTES - 1) + b"\n", 0)
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise LimitExceeded("the store is full", reason="STORE_FULL") from error

    def release(self) -> None:
        """Releases ownership. Releasing twice is allowed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextmanager
def owned(directory: Path) -> Iterator[StoreLock]:
    """Owns the store in the directory for the length of the block. Raises StoreUnavailable (STORE_LOCKED)
    when another process owns it.
    """
    lock = StoreLock(directory)
    try:
        yield lock
    finally:
        lock.release()


def read_identity(directory: Path) -> Identity | None:
    """The content of a directory's lock file; None when the file is missing or empty. Raises DataLoss
    (STORE_PART_LOST) when it is damaged.
    """
    try:
        content = (directory / LOCK_FILE).read_bytes()
    except FileNotFoundError:
        return None
    return _decoded(content, directory)


def _decoded(line: bytes, directory: Path) -> Identity | None:
    if not line:
        return None
    content, _, checksum = line.strip().rpartition(b" ")
    try:
        if xxhash.xxh3_64_hexdigest(content).encode() == checksum:
            return msgspec.json.decode(content, type=Identity)
    except msgspec.MsgspecError:
        pass
    raise lost_lock(directory, "is damaged")


def lost_lock(directory: Path, reason: str) -> DataLoss:
    """The error for a store whose lock file no longer identifies the store."""
    return DataLoss(
        f"the store in {directory} has lost a part: lock {reason}. Nothing was changed. Unless the store was "
        f"copied, recreate the file with `milepost store adopt --moved --data {directory}`",
        reason="STORE_PART_LOST",
    )
