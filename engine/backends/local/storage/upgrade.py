"""Upgrade of format version 5 to 6: checksums cover keys, keys are counted, and users with a profile are
recorded.

Each environment is rewritten beside the old one, which it then replaces by a rename. A crash before that
leaves the old file unchanged, and the next attempt continues. The caller owns the store meanwhile. An upgrade
needs as much extra disk as the larger of the two files uses.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import msgspec
import xxhash
from pyroaring import BitMap

from engine.backends.local.storage.building import sync_directory
from engine.backends.local.storage.copying import COPY_MAP_BYTES
from engine.backends.local.storage.environment import DATA_FILE, Environment
from engine.backends.local.storage.header import (
    FORMAT_VERSION,
    HEADER_KEY,
    UPGRADED_VERSION,
    old_version,
    other_format,
)
from engine.backends.local.storage.keys import Family, family_of, key, parts_of
from engine.backends.local.storage.lmdb_errors import translated
from engine.backends.local.storage.page_cache import BITMAP
from engine.backends.local.storage.pages import check_pages, read_meta
from engine.backends.local.storage.private import FILE_MODE, make_directory
from engine.backends.local.storage.transactions import CHECKSUM_BYTES, WriteTransaction
from engine.errors import DataLoss, StoreUnavailable

UPGRADE_DIRECTORY = ".upgrading"
"""Inside the store's directory, so that the rename stays within one file system."""

PARTS = ("log", "index")

BATCH_BYTES = 32 << 20
SECONDS_PER_PROGRESS = 5.0

_log = logging.getLogger(__name__)

Pairs = Iterator[tuple[bytes, memoryview]]


def upgrade(directory: Path, parts: tuple[str, ...] = PARTS) -> tuple[str, ...]:
    """Upgrades the environments of the store that have version 5, and returns their names. The caller owns
    the store.

    Raises DataLoss when something is damaged and LimitExceeded when the disk is full; the store is then
    unchanged.
    """
    beside = directory / UPGRADE_DIRECTORY
    shutil.rmtree(beside, ignore_errors=True)
    upgraded = tuple(part for part in parts if is_old(directory / part))
    for part in upgraded:
        try:
            _upgrade(directory / part, beside / part)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return upgraded


def write_upgraded(store: Path, directory: Path, parts: tuple[str, ...] = PARTS) -> None:
    """Writes an upgraded copy of a version 5 store, for example of a backup, into another directory."""
    for part in parts:
        _rewrite(store / part, directory / part)


def is_old(part: Path) -> bool:
    """Whether there is an environment of version 5 in the directory."""
    environment = Environment(part, read_only=True, is_owned=True)
    try:
        with environment.reading() as txn:
            return old_version(txn) == UPGRADED_VERSION
    finally:
        environment.close()


def _upgrade(old: Path, new: Path) -> None:
    size = (old / DATA_FILE).stat().st_size
    _log.warning(
        "the store has format version %d: %s (%d MB) is being rewritten as version %d, which takes as much"
        " disk again; the old file is kept until that is done",
        UPGRADED_VERSION,
        old,
        size >> 20,
        FORMAT_VERSION,
    )
    began = time.monotonic()
    _rewrite(old, new)
    _replace(new / DATA_FILE, old / DATA_FILE)
    _log.warning("%s has format version %d after %.1f s", old, FORMAT_VERSION, time.monotonic() - began)


def _replace(new: Path, old: Path) -> None:
    new.replace(old)
    sync_directory(old.parent)


def _rewrite(old: Path, new: Path) -> None:
    meta = read_meta(old / DATA_FILE)
    if meta is not None:
        check_pages(old / DATA_FILE, meta)
    make_directory(new)
    with translated(new / DATA_FILE):
        source = lmdb.open(str(old), readonly=True, create=False, lock=False)
        target = lmdb.open(str(new), map_size=COPY_MAP_BYTES, lock=False, sync=False, mode=FILE_MODE)
        try:
            with source.begin(buffers=True) as txn:
                pairs = _upgraded(_pairs(txn), _Progress(old.name, txn.stat()["entries"]))
                while _write_batch(target, pairs):
                    pass
            target.sync(True)
        finally:
            source.close()
            target.close()


def _write_batch(target: lmdb.Environment, pairs: Pairs) -> bool:
    """Writes one transaction's worth of pairs; False when none are left."""
    written = 0
    with target.begin(write=True, buffers=True) as txn:
        changes = WriteTransaction(txn, set(), Path(target.path()) / DATA_FILE)
        for at, value in pairs:
            changes.put(at, value)
            written += len(at) + len(value)
            if written >= BATCH_BYTES:
                break
        changes.finish()
    return written >= BATCH_BYTES


def _pairs(txn: lmdb.Transaction) -> Pairs:
    """Every pair of the old file, its value without the checksum, which is verified."""
    for found, stored in txn.cursor():
        at, value = bytes(found), memoryview(stored)[CHECKSUM_BYTES:]
        if xxhash.xxh3_64_digest(value) != stored[:CHECKSUM_BYTES]:
            family = family_of(at).name
            raise DataLoss(
                f"a stored value of the family {family} fails its checksum: the store cannot be upgraded;"
                " restore a backup with the version that made it, or with this one",
                metadata={"key_family": family},
            )
        yield at, value


def _upgraded(pairs: Pairs, progress: Callable[[], None]) -> Pairs:
    """The pairs of the new file."""
    profiled: dict[tuple[int, int], BitMap] = {}
    for at, value in pairs:
        if at == HEADER_KEY:
            yield at, memoryview(_new_header(value))
        else:
            yield at, value
        if family_of(at) is Family.PROFILE:
            account, group, dense = parts_of(at)
            profiled.setdefault((int(account), int(group)), BitMap()).add(int(dense))
        progress()
    for numbers, users in sorted(profiled.items()):
        yield key(Family.PROFILED, *numbers), memoryview(BITMAP.encode(users) or b"")


def _new_header(value: memoryview) -> bytes:
    fields = msgspec.msgpack.decode(value)
    version = fields.get("format_version")
    if version != UPGRADED_VERSION:
        raise StoreUnavailable(other_format(version), reason="STORE_FORMAT")
    return msgspec.msgpack.encode({**fields, "format_version": FORMAT_VERSION})


class _Progress:
    """Logs progress from time to time."""

    def __init__(self, name: str, keys: int) -> None:
        self._name = name
        self._keys = keys
        self._done = 0
        self._next = time.monotonic() + SECONDS_PER_PROGRESS

    def __call__(self) -> None:
        self._done += 1
        if not self._done % 1024 and time.monotonic() >= self._next:
            self._next = time.monotonic() + SECONDS_PER_PROGRESS
            _log.info("upgrading %s: %d of %d keys", self._name, self._done, self._keys)
