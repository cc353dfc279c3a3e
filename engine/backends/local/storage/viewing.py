"""A read-only view of both parts of a store in one state."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.backends.base.upkeep import StoreFile
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.header import StoreHeader
from engine.backends.local.storage.ownership import Identity
from engine.backends.local.storage.parts import check_pair, refuse_broken_files
from engine.backends.local.storage.transactions import ReadTransaction
from engine.errors import DataLoss

ATTEMPTS_MAX = 5
ATTEMPT_SECONDS = 0.05
"""Pause before both transactions are begun again: a checkpoint between them makes one part look older."""


@dataclass(frozen=True)
class View:
    """A store seen through two read transactions, which end with the view."""

    header: StoreHeader
    log: ReadTransaction
    index: ReadTransaction
    environments: tuple[Environment, Environment]
    """Transactions of the index and of the log."""

    def files(self) -> tuple[StoreFile, StoreFile]:
        """Sizes of the files of index and log."""
        index, log = self.environments
        return index.figures(), log.figures()


@contextmanager
def viewed(directory: Path, identity: Identity | None, *, is_owned: bool = False) -> Iterator[View]:
    """Both parts of the store in a directory, checked to be complete and to belong together.

    `is_owned`: the caller holds the lock, so no other process writes. Raises StoreUnavailable when the format
    of the store is not this version's, and DataLoss when a part is missing, damaged, or belongs to another
    store or time.
    """
    refuse_broken_files(directory)
    with ExitStack() as opened:
        environments = []
        for part in ("index", "log"):
            environment = Environment(directory / part, read_only=True, is_owned=is_owned)
            opened.callback(environment.close)
            environments.append(environment)
        index, log = environments
        for attempt in range(1, ATTEMPTS_MAX + 1):
            with ExitStack() as begun:
                log_txn, index_txn = (begun.enter_context(each.reading()) for each in (log, index))
                try:
                    header = check_pair(directory, log_txn, index_txn, identity)
                except DataLoss:
                    if is_owned or attempt == ATTEMPTS_MAX:
                        raise
                else:
                    yield View(header, log_txn, index_txn, (index, log))
                    return
            time.sleep(ATTEMPT_SECONDS)
