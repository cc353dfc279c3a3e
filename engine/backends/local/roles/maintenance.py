"""Upkeep of the store as a whole (`engine.backends.base.Upkeep`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from engine.backends.base.upkeep import Finding, StoreFigures
from engine.backends.local.account.account import Account
from engine.backends.local.roles.measuring import Measuring
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.header import FORMAT_VERSION
from engine.backends.local.storage.key_statistics import stored_kinds
from engine.backends.local.storage.store import Store
from engine.backends.local.verify.long_reads import Upkeep
from engine.clock import Stamp
from engine.deadline import check_deadline
from engine.errors import FailedPrecondition


class Maintenance(Measuring[Account]):
    """Copies, verifies and measures the embedded store."""

    def __init__(self, store: Store, settings: LocalSettings, clock: Callable[[], Stamp]) -> None:
        super().__init__(store, settings, clock)
        self._upkeep = Upkeep(store)

    def snapshot(self, directory: Path, may_go_on: Callable[[], None] = lambda: None) -> None:
        """Writes a consistent, compact copy into an empty or missing directory, while reads and writes go on
        and `may_go_on` does not raise.
        """
        self._check()
        if directory.exists() and any(directory.iterdir()):
            raise FailedPrecondition(f"{directory} is not empty", reason="DIRECTORY_NOT_EMPTY")
        self._upkeep.copy(directory, self._checkpoint_lock, may_go_on)

    def _events_of(self, account: Account) -> int:
        return account.tables.row_count(self._state.yield_lock)

    def figures(self, deadline: float | None = None) -> StoreFigures:
        """All figures, counted over one state of the index without blocking others."""
        self._check()
        with self._store.log.reading() as log, self._store.index.reading() as index:
            kinds = stored_kinds(log, index, self._expiry(deadline))
        checkpointed, stats = self._state.checkpointed.position, self.stats()
        return StoreFigures(
            store_id=self.store_id,
            format_version=FORMAT_VERSION,
            revision=stats.revision,
            checkpointed_revision=checkpointed,
            users=stats.users,
            events=stats.events,
            is_purging=self._is_purging(),
            kinds=kinds,
            files=(self._store.index.figures(), self._store.log.figures()),
        )

    def verify(self) -> Iterator[Finding]:
        """Reads and cross-checks everything stored. Only one verification runs at a time."""
        self._check()
        return self._upkeep.verify()

    def _expiry(self, deadline: float | None) -> Callable[[], None]:
        def check() -> None:
            self._check()
            check_deadline(deadline)

        return check
