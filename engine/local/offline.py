"""What can be done with a store's directory while nobody serves it: verify, figures, restore, compact.

Verifying and counting only read, also beside a process that owns the store: they see what it committed last.
Restoring and compacting write a copy into a directory of its own first and put it in place once it is whole.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from engine.errors import DataLoss, FailedPrecondition, StoreUnavailable
from engine.local.backend import LocalBackend
from engine.local.cells import BITMAP
from engine.local.events.table import Table
from engine.local.keys import Family, key
from engine.local.state import read_folded
from engine.local.statistics import stored_kinds
from engine.local.storage.copying import write_copy
from engine.local.storage.environment import DATA_FILE, Environment
from engine.local.storage.header import STORE_ID_BYTES, StoreHeader, read_header, write_header
from engine.local.storage.ownership import owned
from engine.local.storage.transactions import ReadTransaction
from engine.local.storage.upgrade import is_old, upgrade, write_upgraded
from engine.local.verify import verify
from engine.upkeep import Finding, StoreFault, StoreFigures

UNFINISHED_PREFIX = ".unfinished-"
STORE_PARTS = ("index", "log")
"""In the order they are put in place: an index without its log is refused, a log alone would pass for a store
that is just being made.
"""
NOTHING = frozenset({"lost+found"})
"""What an empty file system has."""


class _View(NamedTuple):
    """The two environments of a store, opened for reading only."""

    header: StoreHeader
    log: Environment
    content: Environment
    """The index."""


class Compacted(NamedTuple):
    """What the files of a store took on disk before and after, in bytes."""

    before_bytes: int
    after_bytes: int


@contextmanager
def _viewed(directory: Path) -> Iterator[_View]:
    log = Environment(directory / "log", read_only=True)
    try:
        index = Environment(directory / "index", read_only=True)
        try:
            header = read_header(log) or read_header(index)
            if header is None:
                raise StoreUnavailable(f"there is no store in {directory}", reason="STORE_MISSING")
            yield _View(header, log, index)
        finally:
            index.close()
    finally:
        log.close()


def verify_store(directory: Path) -> Iterator[Finding]:
    """Reads and cross-checks everything that is stored in a directory (`Backend.verify`).

    Raises StoreUnavailable when there is no store or its format is not this version's, DataLoss when a header
    is damaged.
    """
    with _viewed(directory) as view:
        yield from verify(view.log, view.content)


def store_figures(directory: Path) -> StoreFigures:
    """All figures of the store in a directory (`Backend.figures`), with users and events as they are folded:
    what is only in the log is not counted. Raises as `verify_store` does.
    """
    # The log first: an index that is read later reaches at least as far as the log that was trimmed for it.
    with _viewed(directory) as view, view.log.reading() as log, view.content.reading() as index:
        newest = log.last(key(Family.LOG))
        folded = read_folded(index).position
        tables = [Table.decode_record(stored) for _, stored in index.scan(key(Family.EVENT_TABLE))]
        return StoreFigures(
            store_id=view.header.store_id,
            format_version=view.header.format_version,
            revision=max(folded, 0 if newest is None else int.from_bytes(newest[0][1:], "big")),
            folded_revision=folded,
            users=_users(index),
            events=sum(table.rows for table in tables),
            is_purging=any(table.marked for table in tables),
            kinds=stored_kinds(log, index),
            files=(view.content.figures(), view.log.figures()),
        )


def _is_old(directory: Path) -> bool:
    return any(is_old(directory / part) for part in STORE_PARTS)


def _users(index: ReadTransaction) -> int:
    alive: Iterator[BitMap] = (BITMAP.decode(stored) for _, stored in index.scan(key(Family.ALIVE)))
    return sum(map(len, alive))


# --- writing ------------------------------------------------------------------------------------------------


def restore(backup: Path, directory: Path) -> StoreFigures:
    """Makes a store of a backup, in an empty or missing directory, and answers its figures.

    The copy is verified before it is put in place; that of a backup of format version 5 is upgraded. It gets
    an id of its own: revisions handed out by the store that the backup is of, which may be ahead of it, are
    none of the new one's, and are refused there.

    Raises FailedPrecondition when the directory is not empty (DIRECTORY_NOT_EMPTY), StoreUnavailable when the
    backup is no store of this version, DataLoss when it is damaged, LimitExceeded when the disk is full.
    """
    if not directory.exists():
        directory.mkdir(parents=True)
    if not directory.is_dir() or any(child.name not in NOTHING for child in directory.iterdir()):
        raise FailedPrecondition(f"{directory} is not empty", reason="DIRECTORY_NOT_EMPTY")
    with _inside(directory) as unfinished:
        if _is_old(backup):
            write_upgraded(backup, unfinished)
        else:
            with _viewed(backup) as view:
                _copy(view, unfinished)
        with _viewed(unfinished) as view:
            header = msgspec.structs.replace(view.header, store_id=secrets.token_hex(STORE_ID_BYTES))
        for part in STORE_PARTS:
            _rename(unfinished / part, header)
        _refuse_faults(unfinished, backup)
        for part in STORE_PARTS:
            _sync(unfinished / part)
            (unfinished / part).rename(directory / part)
        _sync(directory)
    return store_figures(directory)


def compact(directory: Path) -> Compacted:
    """Folds what is in the log, finishes what was erased, writes the files anew, without free pages and
    without anything that was deleted, and answers what that gave back. The store stays the one it is.

    Raises StoreUnavailable while another process owns the store, DataLoss when something is damaged, and
    LimitExceeded when the disk is full; the store is then as it was.
    """
    if not (directory / "log").is_dir():
        raise StoreUnavailable(f"there is no store in {directory}", reason="STORE_MISSING")
    backend = LocalBackend.open(directory)
    try:
        backend.purge()
    finally:
        backend.close()
    with owned(directory), _inside(directory) as unfinished:
        with _viewed(directory) as view:
            before = view.content.figures().disk_bytes + view.log.figures().disk_bytes
            _copy(view, unfinished)
        for part in STORE_PARTS:
            # Each file says the same as the one it takes the place of: whatever comes in between fits.
            (unfinished / part / DATA_FILE).replace(directory / part / DATA_FILE)
            _sync(directory / part)
    with _viewed(directory) as view:
        return Compacted(before, view.content.figures().disk_bytes + view.log.figures().disk_bytes)


def upgrade_store(directory: Path) -> tuple[tuple[str, ...], int]:
    """Upgrades a store of the format version before, and answers which of its parts were to be upgraded,
    and the version they have now.

    Raises StoreUnavailable when there is no store, or none of a version that can be upgraded, or another
    process owns it; DataLoss when something is damaged and LimitExceeded when the disk is full: the store is
    then as it was.
    """
    if not (directory / "log").is_dir():
        raise StoreUnavailable(f"there is no store in {directory}", reason="STORE_MISSING")
    with owned(directory):
        upgraded = upgrade(directory)
    with _viewed(directory) as view:
        return upgraded, view.header.format_version


@contextmanager
def _inside(directory: Path) -> Iterator[Path]:
    """A new directory inside the given one, around which may be another file system. Removed at the end."""
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=directory))
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _copy(view: _View, directory: Path) -> None:
    # The log first, as in `store_figures`.
    with view.log.reading() as log, view.content.reading() as index:
        write_copy(log, directory / "log")
        write_copy(index, directory / "index")


def _rename(part: Path, header: StoreHeader) -> None:
    """Gives a copy another header."""
    environment = Environment(part)
    try:
        write_header(environment, header)
    finally:
        environment.close()


def _refuse_faults(directory: Path, backup: Path) -> None:
    for finding in verify_store(directory):
        if isinstance(finding, StoreFault):
            where = f"{finding.family} {finding.key}".strip()
            raise DataLoss(
                f"the backup in {backup} is damaged: {where} {finding.description}",
                metadata={"key_family": finding.family},
            )


def _sync(directory: Path) -> None:
    """Makes names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
