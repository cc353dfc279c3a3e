"""Reading a whole store while it is used: verification and copies, each over one state.

Both hold a read transaction for as long as they take. Pages that are freed meanwhile are not reused, so the
file grows by what is written; nothing else waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from engine.errors import FailedPrecondition, StoreUnavailable
from engine.local.storage.copying import write_copy
from engine.local.storage.store import Store
from engine.local.verify import verify
from engine.upkeep import Finding, StoreProgress

REST_SECONDS = 0.001
"""How long a verification or a copy rests now and then: others compete with it for one interpreter."""

END_SECONDS_MAX = 10.0
"""How long closing waits for a reader of the whole store to notice."""


class Upkeep:
    """The long reads of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closing = threading.Event()
        self._copying = threading.Lock()
        self._verifying = threading.Lock()

    def verify(self) -> Iterator[Finding]:
        """Everything that is found. Raises FailedPrecondition while another verification is under way, and
        StoreUnavailable once the store is closing.
        """
        if not self._verifying.acquire(blocking=False):
            raise FailedPrecondition("another verification is under way", reason="VERIFICATION_UNDER_WAY")
        try:
            for finding in verify(self._store.log, self._store.index):
                self._check()
                yield finding
                if isinstance(finding, StoreProgress):
                    time.sleep(REST_SECONDS)
        finally:
            self._verifying.release()

    def copy(self, directory: Path, still: AbstractContextManager[object]) -> None:
        """Writes a compact copy of both environments below a directory. Within `still`, which is left at
        once, nothing may be trimmed from the log.
        """
        with self._copying, ExitStack() as open_:
            with still:
                # The index before the log, so that what the log has reaches from that index onwards.
                index = open_.enter_context(self._store.index.reading())
                log = open_.enter_context(self._store.log.reading())
            for name, txn in (("index", index), ("log", log)):
                write_copy(txn, directory / name, self._rest)

    def _rest(self) -> None:
        self._check()
        time.sleep(REST_SECONDS)

    def _check(self) -> None:
        if self._closing.is_set():
            raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")

    def close(self) -> bool:
        """Ends what is under way and waits for it. False when somebody still holds a transaction: then the
        environments must stay open.
        """
        self._closing.set()
        return all(lock.acquire(timeout=END_SECONDS_MAX) for lock in (self._copying, self._verifying))
