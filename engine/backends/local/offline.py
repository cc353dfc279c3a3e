"""Offline operations on a store's directory: verify, figures, restore, compact, adopt.

Verifying and counting only read. They may run beside the process that owns the store and then see its last
commit. Restoring and compacting build a copy in a directory of its own and move it into position once it is
complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from engine.backends.base.upkeep import Finding, StoreFigures
from engine.backends.local.backend import LocalBackend
from engine.backends.local.events.table import Table
from engine.backends.local.storage.building import (
    put_parts_in_place,
    remove_unfinished,
    sync_directory,
    unfinished_inside,
)
from engine.backends.local.storage.copying import write_copy
from engine.backends.local.storage.environment import DATA_FILE, Environment
from engine.backends.local.storage.header import StoreHeader, new_store_id, write_header
from engine.backends.local.storage.key_statistics import stored_kinds
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.ownership import LOCK_FILE, Identity, Stage, owned, read_identity
from engine.backends.local.storage.page_cache import BITMAP
from engine.backends.local.storage.parts import (
    STORE_PARTS,
    has_parts,
    refuse_broken_files,
    refuse_empty_lock,
    refuse_foreign_content,
    refuse_missing_lock,
    refuse_unfinished,
)
from engine.backends.local.storage.positions import read_checkpointed, read_reach
from engine.backends.local.storage.private import make_directory
from engine.backends.local.storage.store import check_parts, upgrade_parts
from engine.backends.local.storage.transactions import ReadTransaction
from engine.backends.local.storage.upgrade import is_old, write_upgraded
from engine.backends.local.storage.viewing import View, viewed
from engine.backends.local.verify import refuse_faults, verify_transactions
from engine.errors import DataLoss, FailedPrecondition, StoreUnavailable


class Compacted(NamedTuple):
    """Disk usage of the store's files before and after, in bytes."""

    before_bytes: int
    after_bytes: int


def verify_store(directory: Path) -> Iterator[Finding]:
    """Reads and cross-checks everything stored in a directory (`Backend.verify`).

    Raises StoreUnavailable when there is no store or its format is not this version's, DataLoss when a part
    of it is missing, damaged, or belongs to another store or time.
    """
    with _reading(directory) as view:
        yield from verify_transactions(view.log, view.index)


def store_figures(directory: Path) -> StoreFigures:
    """All figures of the store in a directory (`Backend.figures`), with users and events as of the last
    checkpoint: data that is only in the log is not counted. Raises as `verify_store` does.
    """
    with _reading(directory) as view:
        log, index = view.log, view.index
        checkpointed = read_checkpointed(index).position
        tables = [Table.decode_record(stored) for _, stored in index.scan(key(Family.EVENT_TABLE))]
        return StoreFigures(
            store_id=view.header.store_id,
            format_version=view.header.format_version,
            revision=max(checkpointed, read_reach(log).newest or 0),
            checkpointed_revision=checkpointed,
            users=_users(index),
            events=sum(table.rows for table in tables),
            is_purging=any(table.has_tombstones for table in tables),
            kinds=stored_kinds(log, index),
            files=view.files(),
        )


def stored_documents(directory: Path, prefix: str) -> tuple[tuple[str, bytes], ...]:
    """The documents of the store in a directory whose keys start with `prefix`. Raises as `verify_store`."""
    with _reading(directory) as view:
        documents = ((stored[1:].decode(), value) for stored, value in view.index.scan(key(Family.DOCUMENT)))
        return tuple((name, bytes(value)) for name, value in documents if name.startswith(prefix))


def _is_old(directory: Path) -> bool:
    return any(is_old(directory / part) for part in STORE_PARTS)


def _users(index: ReadTransaction) -> int:
    alive: Iterator[BitMap] = (BITMAP.decode(stored) for _, stored in index.scan(key(Family.ALIVE)))
    return sum(map(len, alive))


@contextmanager
def _reading(directory: Path) -> Iterator[View]:
    """Both parts of a store or backup, without taking ownership."""
    identity = _identity(directory)
    with viewed(directory, identity) as view:
        refuse_empty_lock(directory, identity, view.log)
        yield view


def _identity(directory: Path) -> Identity | None:
    """The identity in the lock file of a directory; None for a backup, which has no lock file. Raises
    StoreUnavailable when there is no store at all (STORE_MISSING) or it is incomplete (STORE_UNFINISHED).
    """
    identity = _found(directory)
    if identity is not None:
        refuse_unfinished(directory, identity)
    return identity


def _found(directory: Path) -> Identity | None:
    identity = read_identity(directory)
    if identity is None and not has_parts(directory):
        raise StoreUnavailable(f"there is no store in {directory}", reason="STORE_MISSING")
    return identity


# --- writing ------------------------------------------------------------------------------------------------


def restore(backup: Path, directory: Path) -> StoreFigures:
    """Restores a backup into an empty or missing directory, and returns its figures.

    The copy is verified before it is moved into position; a backup of format version 5 is upgraded. The new
    store gets its own id: revisions of the original store may be ahead of the backup, so the new store
    refuses them. A restore that was killed can be repeated; until then the directory is not served.

    Raises FailedPrecondition when the directory is not empty (DIRECTORY_NOT_EMPTY), StoreUnavailable when the
    backup is not a store of this version, DataLoss when it is damaged, LimitExceeded when the disk is full.
    The directory is then unchanged.
    """
    with _made(directory):
        return _restored(backup, directory)


def _restored(backup: Path, directory: Path) -> StoreFigures:
    _refuse_all_but_interrupted_restore(directory)
    with owned(directory) as lock:
        # Check again: from here on no other process can create a store here.
        _refuse_all_but_interrupted_restore(directory)
        store_id = new_store_id()
        lock.write(store_id, Stage.RESTORING)
        _clear(directory)
        try:
            with unfinished_inside(directory) as unfinished:
                _restore_parts(backup, unfinished, store_id)
                put_parts_in_place(unfinished, directory)
        except BaseException:
            _clear(directory)
            (directory / LOCK_FILE).unlink()
            raise
        lock.write(store_id)
    return store_figures(directory)


@contextmanager
def _made(directory: Path) -> Iterator[None]:
    """Makes the directory and its parents. After an error those that were missing are removed again."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    if missing:
        make_directory(directory)
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for each in missing:
                each.rmdir()
        raise


def _refuse_all_but_interrupted_restore(directory: Path) -> None:
    identity = read_identity(directory) if directory.is_dir() else None
    if identity is None:
        refuse_foreign_content(directory)
    elif identity.stage is not Stage.RESTORING:
        raise FailedPrecondition(
            f"{directory} already holds a store; restore into an empty or a new directory",
            reason="DIRECTORY_NOT_EMPTY",
        )


def _clear(directory: Path) -> None:
    """Removes the files that a restore created in a directory."""
    remove_unfinished(directory)
    for part in STORE_PARTS:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory / part)


def _restore_parts(backup: Path, unfinished: Path, store_id: str) -> None:
    identity = _identity(backup)
    refuse_broken_files(backup)
    if _is_old(backup):
        write_upgraded(backup, unfinished)
    else:
        with _reading(backup) as view:
            _copy(view, unfinished)
    with viewed(unfinished, identity, is_owned=True) as view:
        header = msgspec.structs.replace(view.header, store_id=store_id)
    for part in STORE_PARTS:
        _write_header(unfinished / part, header)
    with viewed(unfinished, None, is_owned=True) as restored:
        refuse_faults(verify_transactions(restored.log, restored.index), f"the backup in {backup}")


def compact(directory: Path) -> Compacted:
    """Checkpoints the log, purges erased data, and rewrites the files without free pages or deleted data.
    Returns the disk usage before and after. The store keeps its id.

    Raises StoreUnavailable while another process owns the store, DataLoss when something is damaged, and
    LimitExceeded when the disk is full. The store is then unchanged.
    """
    _identity(directory)
    backend = LocalBackend.open(directory)
    try:
        backend.purge()
    finally:
        backend.close()
    with owned(directory) as lock, unfinished_inside(directory) as unfinished:
        identity = lock.identity()
        with viewed(directory, identity, is_owned=True) as view:
            before = sum(file.disk_bytes for file in view.files())
            _copy(view, unfinished)
        for part in STORE_PARTS:
            # Each new file has the content of the one it replaces, so a crash in between leaves a valid pair.
            (unfinished / part / DATA_FILE).replace(directory / part / DATA_FILE)
            sync_directory(directory / part)
        with viewed(directory, identity, is_owned=True) as view:
            return Compacted(before, sum(file.disk_bytes for file in view.files()))


def upgrade_store(directory: Path) -> tuple[tuple[str, ...], int]:
    """Upgrades a store of the previous format version, and returns the upgraded parts and their new version.

    Raises StoreUnavailable when there is no store, its version cannot be upgraded, or another process owns
    it; DataLoss when something is damaged and LimitExceeded when the disk is full. The store is then
    unchanged.
    """
    _identity(directory)
    if not (directory / LOCK_FILE).exists():
        refuse_missing_lock(directory)
    with owned(directory) as lock:
        upgraded = upgrade_parts(directory, lock.identity())
        return upgraded, check_parts(directory, lock.identity()).format_version


def adopt(directory: Path, *, moved: bool = False) -> str:
    """Adopts a copied store, or one that has lost its lock file, and returns the store's id.

    The store gets a new id, because the original may still run under the old one: earlier revisions are
    refused. Another call completes an interrupted adoption.

    Raises StoreUnavailable when another process owns the store or there is none, DataLoss when a part is
    missing, damaged, or belongs to another store or time. Nothing is changed then.
    """
    identity = _adoptable(directory)
    with viewed(directory, identity):
        # Create a lock file only where there is a store.
        pass
    with owned(directory) as lock:
        with viewed(directory, identity, is_owned=True) as view:
            header = view.header
        previous_id = header.store_id if identity is None else identity.previous_id
        new_id = new_store_id() if identity is None else identity.store_id
        store_id = previous_id if moved else new_id
        lock.write(store_id, Stage.ADOPTING, previous_id)
        for part in STORE_PARTS:
            _write_header(directory / part, msgspec.structs.replace(header, store_id=store_id))
        lock.write(store_id)
    return store_id


def _adoptable(directory: Path) -> Identity | None:
    """The identity of a store whose adoption was interrupted; None when only its parts identify the store,
    whatever its lock file says.
    """
    try:
        identity = _found(directory)
    except DataLoss:
        return None
    if identity is None or identity.stage is Stage.COMPLETE:
        return None
    if identity.stage is not Stage.ADOPTING:
        refuse_unfinished(directory, identity)
    return identity


def _copy(view: View, directory: Path) -> None:
    view.log.check_pages()
    view.index.check_pages()
    write_copy(view.log, directory / "log")
    write_copy(view.index, directory / "index")


def _write_header(part: Path, header: StoreHeader) -> None:
    environment = Environment(part)
    try:
        with environment.writing() as txn:
            write_header(txn, header)
    finally:
        environment.close()
