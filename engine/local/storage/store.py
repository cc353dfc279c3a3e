"""Opening the store: two LMDB environments behind one file lock.

A store is a directory:

=============  ==========================================================================================
`lock`         held (flock) by the process that owns the store, for as long as it lives
`index/`       LMDB: everything that was folded
`log/`         LMDB: the write-ahead log, apart so that its commits never wait for a fold
=============  ==========================================================================================
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from engine.errors import DataLoss
from engine.local.keys import Family
from engine.local.partition_order import PartitionOrder
from engine.local.storage.environment import MAP_BYTES_DEFAULT, Environment
from engine.local.storage.header import (
    FORMAT_VERSION,
    GROUPS_DEFAULT,
    GROUPS_MAX,
    SEED_BITS,
    STORE_ID_BYTES,
    StoreHeader,
    read_header,
    write_header,
)
from engine.local.storage.ownership import lock_store
from engine.local.storage.upgrade import upgrade


class Store:
    """The two environments of a store and what was fixed when it was created."""

    def __init__(
        self, directory: Path, header: StoreHeader, index: Environment, log: Environment, lock: int
    ) -> None:
        self.directory = directory
        self.store_id = header.store_id
        self.groups = header.groups
        self.seed = header.seed
        self.partitions = PartitionOrder(header.groups, header.seed, drawn_groups=header.drawn_groups)
        self.index = index
        self.log = log
        self._lock = lock

    @classmethod
    def open(
        cls, directory: Path, *, groups: int = GROUPS_DEFAULT, map_bytes: int = MAP_BYTES_DEFAULT
    ) -> Store:
        """Opens the store in `directory`, or creates it there with that number of groups (a power of two up
        to `GROUPS_MAX`; an existing store keeps its own). A store of version 5 is upgraded first.

        Raises StoreUnavailable when another process owns the store (STORE_LOCKED) or its format is not this
        version's (STORE_FORMAT), and DataLoss when one of its environments is missing or damaged.
        """
        if groups not in _GROUPS_ALLOWED:
            raise ValueError(f"the number of groups is a power of two from 1 to {GROUPS_MAX}, not {groups}")
        directory.mkdir(parents=True, exist_ok=True)
        lock = lock_store(directory)
        opened: list[Environment] = []
        try:
            upgrade(directory)
            log = Environment(directory / "log", map_bytes=map_bytes)
            opened.append(log)
            index = Environment(directory / "index", map_bytes=map_bytes)
            opened.append(index)
            header = _header(log, index, groups)
        except BaseException:
            for environment in opened:
                environment.close()
            os.close(lock)
            raise
        return cls(directory, header, index, log, lock)

    def close(self) -> None:
        """Closes both environments and lets another process own the store. Closing twice is allowed."""
        if self._lock < 0:
            return
        self.index.close()
        self.log.close()
        os.close(self._lock)
        self._lock = -1


_GROUPS_ALLOWED = tuple(1 << bits for bits in range(GROUPS_MAX.bit_length()))


def _header(log: Environment, index: Environment, groups: int) -> StoreHeader:
    """The store's header, written first when there is none.

    The log's copy is written first: an index without a log has lost writes, a log without an index is a
    creation that was interrupted.
    """
    log_header, index_header = read_header(log), read_header(index)
    if log_header is None and index_header is not None:
        raise DataLoss("the store's log is missing", metadata={"key_family": Family.META.name})
    if log_header is None:
        store_id, seed = secrets.token_hex(STORE_ID_BYTES), secrets.randbits(SEED_BITS)
        log_header = StoreHeader(FORMAT_VERSION, store_id, groups, seed, drawn_groups=True)
        write_header(log, log_header)
    if index_header is None:
        write_header(index, log_header)
    elif index_header != log_header:
        raise DataLoss("log and index belong to different stores", metadata={"key_family": Family.META.name})
    return log_header
