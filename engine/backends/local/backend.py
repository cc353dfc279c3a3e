"""`LocalBackend`: every role of a backend (`engine.backends.base`) in one process over one directory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from engine.backends.base import Capabilities, Role
from engine.backends.local.roles.catalog import CatalogPages
from engine.backends.local.roles.measuring import Measuring
from engine.backends.local.roles.memberships import StoredMemberships
from engine.backends.local.roles.plans import Plans
from engine.backends.local.roles.users import Users
from engine.backends.local.roles.writing import Writing
from engine.backends.local.serving.writer import LocalServing
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.documents import LocalDocuments
from engine.backends.local.storage.process_memory import keep_small
from engine.backends.local.storage.store import Store
from engine.backends.local.verify.long_reads import END_SECONDS_MAX
from engine.clock import Stamp, wall_stamp
from engine.errors import MilepostError

_log = logging.getLogger(__name__)


class LocalBackend(Plans, Writing, Users, CatalogPages, StoredMemberships, Measuring):
    """The embedded backend. One process owns a directory; all methods are safe from several threads."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        """Use `open`."""
        super().__init__(store, settings, clock)
        self._documents = LocalDocuments(store.index)
        if not store.partitions.drawn_groups:
            _log.info(
                "the store was made by an earlier version: its groups of users stay runs of neighbouring"
                " partitions, only the order in which they are sampled is drawn"
            )
        files = (store.index.file, store.log.file)
        self._background = (
            threading.Thread(target=self._checkpoint_now_and_then, name="milepost-checkpoint", daemon=True),
            threading.Thread(
                target=keep_small, args=(files, self._closing), name="milepost-memory", daemon=True
            ),
        )
        for thread in self._background:
            thread.start()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        settings: LocalSettings | None = None,
        clock: Callable[[], Stamp] = wall_stamp,
    ) -> LocalBackend:
        """Opens or creates the store in a directory and replays log entries that are newer than the index.

        `clock` stamps arrivals. The horizons of event ids and request ids follow it.

        Raises StoreUnavailable when another process owns the store, DataLoss when it is damaged.
        """
        settings = settings or LocalSettings()
        store = Store.open(directory, groups=settings.groups, map_bytes=settings.map_bytes)
        return cls._over(store, settings, clock)

    @classmethod
    def in_memory(
        cls, *, settings: LocalSettings | None = None, clock: Callable[[], Stamp] = wall_stamp
    ) -> LocalBackend:
        """A new store in memory, which is gone once it is closed or its process has ended. Its writes are not
        synced.
        """
        settings = settings or LocalSettings()
        store = Store.in_memory(groups=settings.groups, map_bytes=settings.map_bytes)
        return cls._over(store, settings, clock)

    @classmethod
    def _over(cls, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> LocalBackend:
        try:
            return cls(store, settings, clock)
        except BaseException:
            store.close()
            raise

    @property
    def documents(self) -> LocalDocuments:
        """The resource records."""
        return self._documents

    @property
    def groups(self) -> int:
        """Number of partition groups, fixed when the store was created."""
        return self._store.groups

    def capabilities(self) -> Capabilities:
        """All roles."""
        return Capabilities(name="local", roles=frozenset(Role))

    def serve(self) -> LocalServing:
        """Begins to serve memberships to readers in other processes. Close it before the store."""
        return LocalServing(self._state, self._locked)

    def wait_until_checked(self) -> None:
        """Waits for the check of the files' pages, which goes on while a large store is in use."""
        self._store.wait_until_checked()

    def close(self) -> None:
        """Checkpoints, releases the store, and wakes all waiters. Closing twice is allowed."""
        self._closing.set()
        self._state.memberships.close()
        for thread in self._background:
            thread.join()
        with self._checkpoint_lock:
            if self._closed:
                return
            try:
                self._writer.close()
                self._checkpoint()
            except MilepostError as error:
                # The log holds what is not checkpointed. The next opening replays it.
                _log.warning("the store closes without a checkpoint: %s", error.message)
            finally:
                self._shut()

    def _shut(self) -> None:
        with self._counting_alone(), self._state.locked():
            self._closed = True
        self._documents.close()
        is_done = self._state.computing.close(END_SECONDS_MAX)
        if self._upkeep.close() and is_done:
            self._store.close()
        else:
            _log.warning("close timed out: a backup, verification or answer still holds a read transaction")
