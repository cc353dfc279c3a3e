"""One LMDB environment: a directory with a memory-mapped file and LMDB's table of readers.

LMDB allows one write transaction at a time in each environment and any number of readers, who see the state
of the last commit before they began. A commit has reached the disk (fsync) when `writing()` ends.

The memory map is opened at its full size at once. It takes address space, neither memory nor disk, and so the
file grows as it fills without ever being mapped anew, which would end the transactions that are open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb

from engine.errors import StoreUnavailable
from engine.local.storage.lmdb_errors import translated
from engine.local.storage.transactions import ReadTransaction, WriteTransaction
from engine.upkeep import StoreFile

MAP_BYTES_DEFAULT = 256 << 30
READERS_MAX = 512

DATA_FILE, READERS_FILE = "data.mdb", "lock.mdb"
"""LMDB's own names, in the directory of each environment."""

META_PAGES = 2
STAT_BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own."""


class Environment:
    """One LMDB environment."""

    def __init__(
        self,
        directory: Path,
        *,
        map_bytes: int = MAP_BYTES_DEFAULT,
        read_only: bool = False,
        is_owned: bool = False,
    ) -> None:
        """Opens the environment in a directory or makes one there; `read_only` neither makes nor changes
        anything, and raises StoreUnavailable (STORE_MISSING) when there is none. `is_owned`, for reading
        only, says that no other process writes, so that readers need not be known to it.
        """
        self._file = directory / DATA_FILE
        self._is_read_only = read_only
        self._checked: set[bytes] = set()
        if read_only:
            self._env = _opened_for_reading(directory, is_owned)
            return
        directory.mkdir(parents=True, exist_ok=True)
        with translated():
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
        with translated(), self._env.begin(buffers=True) as txn:
            yield ReadTransaction(txn, self._checked)

    @contextmanager
    def _writing(self) -> Iterator[WriteTransaction]:
        with translated(self._file), self._env.begin(write=True, buffers=True) as txn:
            changes = WriteTransaction(txn, self._checked)
            yield changes
            changes.finish()

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


def _opened_for_reading(directory: Path, is_owned: bool) -> lmdb.Environment:
    if not (directory / DATA_FILE).is_file():
        raise StoreUnavailable(f"there is no store in {directory.parent}", reason="STORE_MISSING")
    # Readers beside an owner must be known to it. In a backup, which nobody ever owned, nothing is written.
    is_shared = not is_owned and os.access(directory / READERS_FILE, os.W_OK)
    with translated():
        return lmdb.open(str(directory), readonly=True, create=False, lock=is_shared, max_readers=READERS_MAX)
