"""The time for which a store is open: its documents, what runs in the background, and the end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from engine.backends.local.roles.checkpoints import CLOSING_CHECKPOINT_S_MAX, Checkpoints
from engine.backends.local.serving.writer import LocalServing
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.documents import LocalDocuments
from engine.backends.local.storage.store import Store
from engine.backends.local.verify.long_reads import END_SECONDS_MAX
from engine.backends.local.write.state import P
from engine.clock import Stamp
from engine.errors import MilepostError
from engine.process_memory import keep_small

_log = logging.getLogger(__name__)


class Lifetime(Checkpoints[P]):
    """Opens and closes a store that its process owns."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._documents = LocalDocuments(store.index)
        if not store.partitions.drawn_groups:
            _log.info(
                "the store was made by an earlier version: its groups of users stay runs of neighbouring"
                " partitions, only the order in which they are sampled is drawn"
            )
        self._background: tuple[threading.Thread, ...] = ()

    def _start(self) -> None:
        """Starts what runs in the background. Called once the store is open in all its roles."""
        self._background = tuple(self._threads())
        for thread in self._background:
            thread.start()

    def _threads(self) -> Iterator[threading.Thread]:
        """The threads of the background. They end when `_closing` is set."""
        files = (self._store.index.file, self._store.log.file)
        yield threading.Thread(target=self._checkpoint_now_and_then, name="milepost-checkpoint", daemon=True)
        yield threading.Thread(
            target=keep_small, args=(files, self._closing), name="milepost-memory", daemon=True
        )

    @property
    def documents(self) -> LocalDocuments:
        """The resource records."""
        return self._documents

    @property
    def groups(self) -> int:
        """Number of partition groups, fixed when the store was created."""
        return self._store.groups

    def serve(self) -> LocalServing:
        """Begins to serve memberships to readers in other processes. Close it before the store."""
        return LocalServing(self._state, self._locked)

    def wait_until_checked(self) -> None:
        """Waits for the check of the files' pages, which goes on while a large store is in use."""
        self._store.wait_until_checked()

    def close(self) -> None:
        """Checkpoints, releases the store, and wakes all waiters. Closing twice is allowed."""
        self._closes_by = time.monotonic() + CLOSING_CHECKPOINT_S_MAX
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
                with self._index_lock:
                    # Earlier builds look for all members there.
                    self._commit(self._state.memberships.store_members)
            except MilepostError as error:
                # The log holds what is not checkpointed. The next opening replays it.
                _log.warning("the store closes without a checkpoint: %s", error.message)
            finally:
                self._shut()

    def _shut(self) -> None:
        with self._state.locked():
            self._closed = True
        self._documents.close()
        is_done = self._state.computing.close(END_SECONDS_MAX)
        if self._end_reads() and is_done:
            self._store.close()
        else:
            _log.warning("close timed out: a backup, verification or answer still holds a read transaction")

    def _end_reads(self) -> bool:
        """Ends what still reads files of the store. False: something goes on."""
        return True
