"""Copies of an environment: the same keys and values in new pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb

from engine.backends.local.storage.environment import DATA_FILE
from engine.backends.local.storage.lmdb_errors import translated
from engine.backends.local.storage.private import FILE_MODE, make_directory
from engine.backends.local.storage.transactions import ReadTransaction, mark_commit

COPY_MAP_BYTES = 1 << 40
"""Address space for a copy while it is written, in bytes: larger than any store."""
COPY_BATCH_BYTES = 8 << 20
"""Bytes a copy writes in one transaction. All of it is in memory until the commit."""


def write_copy(
    source: ReadTransaction,
    directory: Path,
    rest: Callable[[], None] = lambda: None,
    *,
    keeps: Callable[[bytes], bool] | None = None,
) -> None:
    """Writes everything that a transaction sees, or the keys that `keeps` is true for, into a new environment
    in a directory, and syncs it at the end. `rest` is called from time to time and may raise.

    Keys and values are written in order into new pages. LMDB's own copy keeps the old inner pages, which may
    contain keys deleted long ago, for example ids of erased users. Each value is verified on the way and the
    keys are counted: raises DataLoss rather than write a copy that is damaged or incomplete.
    """
    make_directory(directory)
    with translated():
        target = lmdb.open(str(directory), map_size=COPY_MAP_BYTES, lock=False, sync=False, mode=FILE_MODE)
    try:
        pairs = source.stored() if keeps is None else (each for each in source.stored() if keeps(each[0]))
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
    """Pairs up to `COPY_BATCH_BYTES`, and their size in bytes."""

    def __init__(self, pairs: Iterator[tuple[bytes, memoryview]]) -> None:
        self._pairs = pairs
        self.bytes = 0

    def __iter__(self) -> Iterator[tuple[bytes, memoryview]]:
        for found, stored in self._pairs:
            yield found, stored
            self.bytes += len(found) + len(stored)
            if self.bytes >= COPY_BATCH_BYTES:
                return
