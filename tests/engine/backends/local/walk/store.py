"""What happens to a store under the worlds in it: checkpoints, also ones that fail, crashes, restarts,
backups.
"""

from __future__ import annotations

import contextlib
import functools
import random
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import lmdb

from engine.backends.base.upkeep import StoreFault
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.header import SEED_BITS
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.storage.write_ahead_log import WriteAheadLog
from engine.errors import LimitExceeded
from tests.oracle.engine_side import EngineSide
from tests.stores import crash_image

BACKUPS_KEPT = 2


@contextlib.contextmanager
def unsynced() -> Iterator[None]:
    """Stores opened in this block never wait for the disk: a crash here is a copy of the files, which has
    what was written whether or not it was synced.
    """
    opened = lmdb.open

    def open_unsynced(path: str, **settings: Any) -> lmdb.Environment:
        return opened(path, **(settings | {"sync": False}))

    with mock.patch.object(lmdb, "open", open_unsynced):
        yield


@contextlib.contextmanager
def partitions_drawn_by(source: random.Random) -> Iterator[None]:
    """Stores made in this block draw their secret from `source`. It decides which users share a group, so
    without this a seed would not lead to the same store again.
    """
    seed = source.getrandbits(SEED_BITS)
    with mock.patch.object(secrets, "randbits", return_value=seed):
        yield


class WalkedStore:
    """A store in a directory inside `room`; after a crash or from a backup it continues in another one.

    It checkpoints only when told to, so that what happens follows from the seed.
    """

    def __init__(self, room: Path, settings: LocalSettings, kind: type[LocalBackend]) -> None:
        self._room = room
        self._directories = 0
        self._backups: list[Path] = []
        opened = functools.partial(kind.open, settings=settings)
        self.side = EngineSide(self._next_directory(), opened)

    @property
    def backend(self) -> LocalBackend:
        """The open store."""
        return self.side.backend

    def _next_directory(self) -> Path:
        self._directories += 1
        return self._room / str(self._directories)

    def checkpoint(self) -> None:
        """A checkpoint."""
        self.backend.checkpoint()

    def checkpoint_in_vain(self) -> None:
        """A checkpoint that fails while writing, as on a full disk. It must have no effect."""
        full = LimitExceeded("the store is full", reason="STORE_FULL")
        with mock.patch.object(WriteBuffer, "write_to", side_effect=full):
            try:
                self.backend.checkpoint()
            except LimitExceeded as error:
                if error is not full:
                    raise

    def restart(self) -> None:
        """Closed and opened again."""
        self.side.restart()

    def crash(self) -> None:
        """Continues with the files as they are on disk, without closing."""
        before = self.side.directory
        after = self._next_directory()
        crash_image(before, after)
        self.side.go_on_in(after)
        shutil.rmtree(before)

    def crash_after_checkpoint(self) -> None:
        """A crash between the commit of a checkpoint and the trimming of the log: entries in it are
        checkpointed.
        """
        with mock.patch.object(WriteAheadLog, "trim"):
            self.backend.checkpoint()
            before = self.side.directory
            after = self._next_directory()
            crash_image(before, after)
        self.side.go_on_in(after)
        shutil.rmtree(before)

    def purge(self) -> None:
        """Checkpoints until nothing of what was erased is stored."""
        self.backend.purge()

    def compact(self) -> None:
        """Closes, compacts and reopens it."""
        directory = self.side.directory
        self.backend.close()
        offline.compact(directory)
        self.side.go_on_in(directory)

    def back_up(self) -> Path:
        """A backup while the store is open. The oldest of them is thrown away when there are many."""
        directory = self._next_directory()
        self.backend.snapshot(directory)
        self._backups.append(directory)
        if len(self._backups) > BACKUPS_KEPT:
            shutil.rmtree(self._backups.pop(0))
        return directory

    def restore(self, backup: Path) -> None:
        """Continues from a backup."""
        before, after = self.side.directory, self._next_directory()
        offline.restore(backup, after)
        self.side.go_on_in(after)
        shutil.rmtree(before)

    def has(self, backup: Path) -> bool:
        """Whether that backup is still kept."""
        return backup in self._backups

    def faults(self) -> list[str]:
        """The findings of a verification."""
        return [str(finding) for finding in self.backend.verify() if isinstance(finding, StoreFault)]

    def close(self) -> None:
        """Closes the store."""
        self.side.close()
