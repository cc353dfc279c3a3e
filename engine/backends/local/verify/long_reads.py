"""Long reads: verification and copies of a store in use, each over one state.

Both hold a read transaction for as long as they take. Pages freed meanwhile are not reused, so the file grows
by what is written. Nothing else waits for them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from engine.backends.base.upkeep import Finding
from engine.backends.local.storage.building import sync_directory
from engine.backends.local.storage.copying import write_copy
from engine.backends.local.storage.rests import Rests
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.viewing import viewed
from engine.backends.local.verify import refuse_faults, verify, verify_transactions
from engine.errors import DataLoss, FailedPrecondition, StoreUnavailable

COPY_REST_SECONDS = 0.001
"""Seconds a copy rests every few megabytes."""

END_SECONDS_MAX = 10.0
"""Seconds closing waits for a long read to stop."""


class Upkeep:
    """The long reads of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closing = threading.Event()
        self._copying = threading.Lock()
        self._verifying = threading.Lock()

    def verify(self) -> Iterator[Finding]:
        """All findings. Raises FailedPrecondition while another verification is running, and
        StoreUnavailable once the store is closing.
        """
        if not self._verifying.acquire(blocking=False):
            raise FailedPrecondition("another verification is under way", reason="VERIFICATION_UNDER_WAY")
        try:
            yield from self._checked(verify(self._store.log, self._store.index, Rests()))
        finally:
            self._verifying.release()

    def copy(
        self, directory: Path, still: AbstractContextManager[object], may_go_on: Callable[[], None]
    ) -> None:
        """Writes a compact copy of both environments below a directory, and verifies it. Within `still`,
        which is left at once, nothing may be trimmed from the log. Raises DataLoss when anything is damaged,
        and what `may_go_on` raises.

        The copy is verified, not the store. So what was written is read again, and no transaction of the
        store, which would keep its pages from being reused, lasts for longer than it takes to copy.
        """
        with self._copying, _told_of_copying():
            self._write_copy(directory, still, may_go_on)
            with viewed(directory, None, is_owned=True) as copy:
                findings = verify_transactions(copy.log, copy.index, Rests())
                refuse_faults(self._checked(findings, may_go_on), "what was copied")

    def _write_copy(
        self, directory: Path, still: AbstractContextManager[object], may_go_on: Callable[[], None]
    ) -> None:
        with ExitStack() as open_:
            with still:
                # The index before the log, so that what the log has reaches from that index onwards.
                index = open_.enter_context(self._store.index.reading())
                log = open_.enter_context(self._store.log.reading())
            for name, txn in (("index", index), ("log", log)):
                write_copy(txn, directory / name, lambda: self._rest_of_copy(may_go_on))
                sync_directory(directory / name)
        sync_directory(directory)

    def _checked(
        self, findings: Iterable[Finding], may_go_on: Callable[[], None] = lambda: None
    ) -> Iterator[Finding]:
        for finding in findings:
            self._check()
            may_go_on()
            yield finding

    def _rest_of_copy(self, may_go_on: Callable[[], None]) -> None:
        self._check()
        may_go_on()
        time.sleep(COPY_REST_SECONDS)

    def _check(self) -> None:
        if self._closing.is_set():
            raise StoreUnavailable("the store is closing", reason="STORE_CLOSED")

    def close(self) -> bool:
        """Stops long reads and waits for them. False: a transaction is still open, so the environments must
        stay open.
        """
        self._closing.set()
        return all(lock.acquire(timeout=END_SECONDS_MAX) for lock in (self._copying, self._verifying))


@contextmanager
def _told_of_copying() -> Iterator[None]:
    """Says of damage what came of it."""
    try:
        yield
    except DataLoss as error:
        raise DataLoss(
            f"the store is damaged and was not copied: {error.message}. "
            "`milepost store verify` lists every fault",
            reason=error.reason,
            metadata=error.metadata,
        ) from error
