"""Copies of an environment: the same keys and values in new pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from engine.backends.local.storage.environment import DATA_FILE
from engine.backends.local.storage.lmdb_errors import translated
from engine.backends.local.storage.transactions import ReadTransaction, mark_commit

COPY_MAP_BYTES = 1 << 40
"""Address space for a copy while it is written, in bytes: larger than any store."""
COPY_BATCH_BYTES = 8 << 20
"""Bytes a copy writes in one transaction. All of it is in memory until the commit."""


def write_copy(source: ReadTransaction, directory: Path, rest: Callable[[], None] = lambda: None) -> None:
    """Writes everything that a transaction sees into a new environment in a directory, synced at the end.
    `rest` is called now and then and may raise.

    Keys and values are written anew, in order. LMDB's own copy takes its pages over, whose inner ones keep
    keys that were deleted long ago: ids of erased users, for example. Each value is verified on the way, and
    the keys are counted: raises DataLoss rather than make a copy that is damaged or has less.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with translated():
        target = lmdb.open(str(directory), map_size=COPY_MAP_BYTES, lock=False, sync=False)
    try:
        pairs = source.stored()
        with translated(directory / DATA_FILE):
            more = True
            while more:
                with target.begin(write=True) as txn:
                    batch = _Batch(pairs)
                    txn.cursor().putmulti(batch, append=True)
                    more = batch.bytes >= COPY_BATCH_BYTES
                rest()
            with target.begin(write=True) as txn:
                mark_commit(txn)
            target.sync(True)
    finally:
        target.close()


class _Batch:
    """Pairs up to `COPY_BATCH_BYTES`, and how many bytes they had."""

    def __init__(self, pairs: Iterator[tuple[bytes, memoryview]]) -> None:
        self._pairs = pairs
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        for found, stored in self._pairs:
            yield found, stored
            self.bytes += len(found) + len(stored)
            if self.bytes >= COPY_BATCH_BYTES:
                return
