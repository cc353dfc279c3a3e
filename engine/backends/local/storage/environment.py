"""One LMDB environment: a directory with a memory-mapped file and LMDB's table of readers.

LMDB allows one write transaction at a time in each environment and any number of readers, each of which sees
the last commit before it began. A commit is on disk (fsync) when `writing()` ends, unless the environment is
not durable.

The memory map is opened at its full size. This reserves address space, not memory or disk, so the file can
grow without remapping, which would end all open transactions.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import lmdb

from engine.backends.base.upkeep import StoreFile
from engine.backends.local.storage.lmdb_errors import translated
from engine.backends.local.storage.pages import Meta, check_pages, read_meta
from engine.backends.local.storage.private import FILE_MODE, make_directory
from engine.backends.local.storage.transactions import ReadTransaction, WriteTransaction
from engine.errors import DataLoss, StoreUnavailable

MAP_BYTES_DEFAULT = 256 << 30
MAP_BYTES_MIN = 1 << 20
MAP_BYTES_MAX = 1 << 45
"""Two maps of this size fit into the address space of a process."""
READERS_MAX = 512

DATA_FILE, READERS_FILE = "data.mdb", "lock.mdb"
"""File names that LMDB uses in the directory of each environment."""

META_PAGES = 2

PAGES_CHECKED_FIRST = 2_048
"""Files with up to this many key pages are checked before use, which takes 25 ms. Larger files are checked
while in use.
"""
CHECK_SHARE = 1 / 4
"""Share of the time that the check of a file in use works. It holds the interpreter's lock, and rests so that
calls are hardly slower meanwhile.
"""

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
        is_durable: bool = True,
    ) -> None:
        """Opens or creates the environment in a directory. `read_only` neither creates nor changes anything,
        and raises StoreUnavailable (STORE_MISSING) when there is none. `is_owned`, for reading only: no other
        process writes, so readers need not be registered. Without `is_durable` commits are not synced.
        """
        self._name = directory.name
        self._file = directory / DATA_FILE
        self._descriptor: int | None = None
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
        make_directory(directory)
        is_small = meta is not None and meta.tree_pages <= PAGES_CHECKED_FIRST
        if meta is not None and is_small:
            _check_once(self._file, meta)
        with translated():
            self._env = _opened(directory, map_bytes, is_durable)
            # Slots of crashed readers would prevent old pages from being reused.
            self._env.reader_check()
        if meta is not None and not is_small:
            self._check_in_background(meta)

    def _check_what_is_read(self) -> None:
        """A read transaction while another process may write: only its state does not change."""
        try:
            with self.reading() as txn:
                txn.check_pages()
        except BaseException:
            self._env.close()
            raise

    def _check_in_background(self, meta: Meta) -> None:
        """Checks a large file while it is used. The checked state does not change."""
        held = self._env.begin()
        started = time.monotonic()

        def give_way() -> None:
            nonlocal started
            worked = time.monotonic() - started
            if self._closing.wait(worked / CHECK_SHARE - worked):
                raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")
            started = time.monotonic()

        def check() -> None:
            try:
                check_pages(self._file, meta, give_way)
            except DataLoss as damage:
                self._damage = damage
                _log.error("%s", damage.message)
            except StoreUnavailable:
                pass
            finally:
                held.abort()

        self._checker = threading.Thread(target=check, name="milepost-pages", daemon=True)
        self._checker.start()

    def wait_until_checked(self) -> None:
        """Waits for the check of a large file to end, whatever it finds."""
        if self._checker is not None:
            self._checker.join()

    def reading(self, *, copies: bool = False) -> AbstractContextManager[ReadTransaction]:
        """A read transaction for the length of the block. Keep blocks short: pages a reader may still see are
        not reused, so the file grows meanwhile. `copies`: LMDB's keys and values come as bytes instead of
        views, which is faster for reading many keys.
        """
        return self._reading(copies)

    def writing(self) -> AbstractContextManager[WriteTransaction]:
        """The write transaction. Waits for the previous one, commits with fsync at the end of the block, and
        changes nothing on an exception. Raises LimitExceeded (STORE_FULL) when map or disk is full.
        """
        return self._writing()

    @contextmanager
    def _reading(self, copies: bool) -> Iterator[ReadTransaction]:
        self._check_damage()
        with translated(), self._env.begin() if copies else self._env.begin(buffers=True) as txn:
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
        """The mapped file."""
        return self._file

    def unlink(self) -> None:
        """Removes the names of the files and their directory. The system frees them once this process has
        ended, in whatever way, or the environment is closed.
        """
        self._descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
        shutil.rmtree(self._file.parent)
        self._file = Path(f"/proc/self/fd/{self._descriptor}")

    def disk_bytes(self) -> int:
        """The share of the file's limit that is in use or waiting for reuse."""
        info, stat = self._env.info(), self._env.stat()
        return int((info["last_pgno"] + 1) * stat["psize"])

    @property
    def room_bytes(self) -> int:
        """The bytes that still fit under the file's limit, in free or new pages."""
        map_bytes = 0 if self._is_read_only else int(self._env.info()["map_size"])
        return map_bytes - self._used_bytes()

    def figures(self) -> StoreFile:
        """Size of the file and how much of it is free. The pages of the free list count as free."""
        info, stat, file = self._env.info(), self._env.stat(), self._file.stat()
        used_bytes = self._used_bytes()
        return StoreFile(
            name=self._name,
            disk_bytes=file.st_blocks * STAT_BLOCK_BYTES,
            file_bytes=file.st_size,
            used_bytes=used_bytes,
            free_bytes=max(0, (info["last_pgno"] + 1) * stat["psize"] - used_bytes),
            limit_bytes=0 if self._is_read_only else info["map_size"],
        )

    def _used_bytes(self) -> int:
        stat = self._env.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return (pages + META_PAGES) * stat["psize"]

    def close(self) -> None:
        """Unmaps the file. No transaction may be open."""
        self._closing.set()
        if self._checker is not None:
            self._checker.join()
        self._env.close()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


_sound: dict[Path, tuple[int, int, int]] = {}
"""Files found to be sound: transaction, last change and size."""


def _check_once(file: Path, meta: Meta) -> None:
    """Checks the pages of a file that no other process writes to, unless it was checked and has not changed
    since: a start opens each file several times.
    """
    found = file.stat()
    state = (meta.transaction, found.st_mtime_ns, found.st_size)
    if _sound.get(file) != state:
        check_pages(file, meta)
        _sound[file] = state


def _opened(directory: Path, map_bytes: int, is_durable: bool) -> lmdb.Environment:
    try:
        return lmdb.open(
            str(directory),
            map_size=map_bytes,
            max_readers=READERS_MAX,
            metasync=is_durable,
            sync=is_durable,
            mode=FILE_MODE,
        )
    except lmdb.MemoryError:
        raise StoreUnavailable(
            f"cannot reserve {map_bytes:,} bytes of address space for {directory}: lower --map-bytes, or"
            " raise the limit of the process (ulimit -v)",
            reason="NO_ADDRESS_SPACE",
        ) from None


def _opened_for_reading(directory: Path, is_owned: bool) -> lmdb.Environment:
    if not (directory / DATA_FILE).is_file():
        raise StoreUnavailable(f"there is no store in {directory.parent}", reason="STORE_MISSING")
    # Beside an owner, readers must be registered. A backup has no owner, so nothing is written there.
    is_shared = not is_owned and os.access(directory / READERS_FILE, os.W_OK)
    with translated():
        return lmdb.open(str(directory), readonly=True, create=False, lock=is_shared, max_readers=READERS_MAX)
