"""One LMDB environment: a directory with a memory-mapped file and LMDB's table of readers.

LMDB allows one write transaction at a time in each environment and any number of readers, who see the state
of the last commit before they began. A commit has reached the disk (fsync) when `writing()` ends.

The memory map is opened at its full size at once. It takes address space, neither memory nor disk, and so the
file grows as it fills without ever being mapped anew, which would end the transactions that are open.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb

from engine.backends.base.upkeep import StoreFile
from engine.backends.local.storage.lmdb_errors import translated
from engine.backends.local.storage.pages import Meta, check_pages, read_meta
from engine.backends.local.storage.transactions import ReadTransaction, WriteTransaction
from engine.errors import DataLoss, StoreUnavailable

MAP_BYTES_DEFAULT = 256 << 30
READERS_MAX = 512

DATA_FILE, READERS_FILE = "data.mdb", "lock.mdb"
"""LMDB's own names, in the directory of each environment."""

META_PAGES = 2

PAGES_CHECKED_FIRST = 2_048
"""Files up to this many key pages are checked before they are used, which takes 25 ms. Larger files are
checked while they are used.
"""
REST_SECONDS = 0.001

STAT_BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own."""


_log = logging.getLogger(__name__)


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
        self._damage: DataLoss | None = None
        self._closing = threading.Event()
        self._checker: threading.Thread | None = None
        is_still = not read_only or is_owned
        meta = read_meta(self._file, None if is_still else 0)
        if read_only:
            self._env = _opened_for_reading(directory, is_owned)
            if not is_owned:
                self._check_what_is_read()
            elif meta is not None and meta.tree_pages <= PAGES_CHECKED_FIRST:
                _check_once(self._file, meta)
            return
        directory.mkdir(parents=True, exist_ok=True)
        is_small = meta is not None and meta.tree_pages <= PAGES_CHECKED_FIRST
        if meta is not None and is_small:
            _check_once(self._file, meta)
        with translated():
            self._env = lmdb.open(str(directory), map_size=map_bytes, max_readers=READERS_MAX, metasync=True)
            # Slots of readers that died without closing would keep old pages from being reused.
            self._env.reader_check()
        if meta is not None and not is_small:
            self._check_in_background(meta)

    def _check_what_is_read(self) -> None:
        """Beside a process that may write, the state of a transaction is what holds still."""
        try:
            with self.reading() as txn:
                txn.check_pages()
        except BaseException:
            self._env.close()
            raise

    def _check_in_background(self, meta: Meta) -> None:
        """Checks a large file while it is used. The checked state stays as it is."""
        held = self._env.begin()

        def check() -> None:
            try:
                check_pages(self._file, meta, self._give_way)
            except DataLoss as damage:
                self._damage = damage
                _log.error("%s", damage.message)
            except StoreUnavailable:
                pass
            finally:
                held.abort()

        self._checker = threading.Thread(target=check, name="milepost-pages", daemon=True)
        self._checker.start()

    def _give_way(self) -> None:
        if self._closing.wait(REST_SECONDS):
            raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")

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
        self._check_damage()
        with translated(), self._env.begin(buffers=True) as txn:
            yield ReadTransaction(txn, self._checked, self._file)

    @contextmanager
    def _writing(self) -> Iterator[WriteTransaction]:
        self._check_damage()
        with translated(self._file), self._env.begin(write=True, buffers=True) as txn:
            changes = WriteTransaction(txn, self._checked, self._file)
            yield changes
            changes.finish()

    def _check_damage(self) -> None:
        if self._damage is not None:
            raise DataLoss(self._damage.message, metadata=dict(self._damage.metadata))

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
        self._closing.set()
        if self._checker is not None:
            self._checker.join()
        self._env.close()


_sound: dict[Path, tuple[int, int, int]] = {}
"""Files that were found to be sound: at which transaction, when they were changed last, and their size."""


def _check_once(file: Path, meta: Meta) -> None:
    """Checks the pages of a file that nobody else writes to, unless that was done and it has not changed: a
    start opens each file several times.
    """
    found = file.stat()
    state = (meta.transaction, found.st_mtime_ns, found.st_size)
    if _sound.get(file) != state:
        check_pages(file, meta)
        _sound[file] = state


def _opened_for_reading(directory: Path, is_owned: bool) -> lmdb.Environment:
    if not (directory / DATA_FILE).is_file():
        raise StoreUnavailable(f"there is no store in {directory.parent}", reason="STORE_MISSING")
    # Readers beside an owner must be known to it. In a backup, which nobody ever owned, nothing is written.
    is_shared = not is_owned and os.access(directory / READERS_FILE, os.W_OK)
    with translated():
        return lmdb.open(str(directory), readonly=True, create=False, lock=is_shared, max_readers=READERS_MAX)
