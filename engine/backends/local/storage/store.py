"""Opening the store: two LMDB environments behind one file lock.

A store is a directory:

=============  ==========================================================================================
`lock`         held (flock) by the process that owns the store, for as long as it lives; identifies the
               store and its location (`ownership`)
`index/`       LMDB: checkpointed data
`log/`         LMDB: the write-ahead log, separate so that its commits never wait for a checkpoint
=============  ==========================================================================================

A store is opened only when all parts exist and belong together (`parts`). It is created in steps. Until the
last one the lock file says that it is being created, so after a crash the next opening starts over.
"""

from __future__ import annotations

import secrets
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

from engine.backends.local.storage.building import put_parts_in_place, remove_unfinished, unfinished_inside
from engine.backends.local.storage.data_file import BrokenFile, check_data_file
from engine.backends.local.storage.environment import DATA_FILE, MAP_BYTES_DEFAULT, Environment
from engine.backends.local.storage.header import (
    FORMAT_VERSION,
    GROUPS_DEFAULT,
    GROUPS_MAX,
    SEED_BITS,
    StoreHeader,
    new_store_id,
    read_store_id,
    write_header,
)
from engine.backends.local.storage.in_memory import temporary_directory
from engine.backends.local.storage.keys import Family, family_of
from engine.backends.local.storage.ownership import LOCK_FILE, Identity, Stage, StoreLock
from engine.backends.local.storage.partition_order import PartitionOrder
from engine.backends.local.storage.parts import (
    STORE_PARTS,
    has_parts,
    lost,
    refuse_broken_files,
    refuse_empty_lock,
    refuse_foreign_content,
    refuse_missing_lock,
    refuse_other_location,
    refuse_strangers,
    refuse_unfinished,
)
from engine.backends.local.storage.private import make_directory
from engine.backends.local.storage.session import begin_session, first_session, write_session
from engine.backends.local.storage.upgrade import upgrade
from engine.backends.local.storage.viewing import viewed
from engine.errors import LimitExceeded


class Store:
    """The two environments of a store, and its header."""

    def __init__(
        self, directory: Path, header: StoreHeader, index: Environment, log: Environment, lock: StoreLock
    ) -> None:
        self.directory = directory
        self.store_id = header.store_id
        self.groups = header.groups
        self.seed = header.seed
        self.partitions = PartitionOrder(header.groups, header.seed, drawn_groups=header.drawn_groups)
        self.index = index
        self.log = log
        self._lock: StoreLock | None = lock

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        groups: int = GROUPS_DEFAULT,
        map_bytes: int = MAP_BYTES_DEFAULT,
        is_durable: bool = True,
    ) -> Store:
        """Opens the store in `directory`, or creates it with that number of groups (a power of two up to
        `GROUPS_MAX`; an existing store keeps its own) when the directory is missing or empty.
        A store of version 5 is upgraded first. Without `is_durable` commits are not synced.

        Changes nothing and raises StoreUnavailable when another process owns the store
        (STORE_LOCKED), it was copied (STORE_COPIED), an operation was interrupted (STORE_UNFINISHED), or its
        format is not this version's (STORE_FORMAT); DataLoss when a part of it is missing or damaged;
        FailedPrecondition (DIRECTORY_NOT_EMPTY) when the directory holds something else.
        """
        if groups not in _GROUPS_ALLOWED:
            raise ValueError(
                f"the number of groups must be a power of two from 1 to {GROUPS_MAX}, got {groups}"
            )
        make_directory(directory)
        if not (directory / LOCK_FILE).exists():
            _refuse_without_lock(directory)
        with ExitStack() as opened:
            lock = StoreLock(directory)
            opened.callback(lock.release)
            is_new = _create_if_new(directory, lock, groups)
            header = _check_existing(directory, lock)
            log = Environment(directory / "log", map_bytes=map_bytes, is_durable=is_durable)
            opened.callback(log.close)
            index = Environment(directory / "index", map_bytes=map_bytes, is_durable=is_durable)
            opened.callback(index.close)
            if not is_new:
                begin_session(log, index)
            opened.pop_all()
        return cls(directory, header, index, log, lock)

    @classmethod
    def in_memory(cls, *, groups: int = GROUPS_DEFAULT, map_bytes: int = MAP_BYTES_DEFAULT) -> Store:
        """A new store whose files have no names: they are gone once it is closed, or its process has ended in
        any way. `storage.in_memory` says where they are.
        """
        with temporary_directory() as directory:
            store = cls.open(directory, groups=groups, map_bytes=map_bytes, is_durable=False)
            for environment in (store.index, store.log):
                environment.unlink()
        return store

    def wait_until_checked(self) -> None:
        """Waits for the checks of large files to end, whatever they find."""
        for environment in (self.index, self.log):
            environment.wait_until_checked()

    def close(self) -> None:
        """Closes both environments and releases ownership. Closing twice is allowed."""
        if self._lock is None:
            return
        self.index.close()
        self.log.close()
        self._lock.release()
        self._lock = None


CREATED_FAMILIES = (Family.META, Family.RANGE)
"""Key families of the index and the log of a new store."""

_GROUPS_ALLOWED = tuple(1 << bits for bits in range(GROUPS_MAX.bit_length()))


def create_parts(directory: Path, lock: StoreLock, groups: int) -> None:
    """Creates an index and a log that contain only their headers."""
    header = StoreHeader(
        FORMAT_VERSION, new_store_id(), groups, secrets.randbits(SEED_BITS), drawn_groups=True
    )
    session = first_session()
    lock.write(header.store_id, Stage.CREATING)
    with unfinished_inside(directory) as unfinished:
        for part in STORE_PARTS:
            environment = Environment(unfinished / part)
            try:
                with environment.writing() as txn:
                    write_header(txn, header)
                    write_session(txn, session)
            finally:
                environment.close()
        put_parts_in_place(unfinished, directory)
    lock.write(header.store_id)


def _create_if_new(directory: Path, lock: StoreLock, groups: int) -> bool:
    """Creates a store in an empty directory, or completes an interrupted creation; False in other
    directories.
    """
    identity = lock.identity()
    if identity is None and not has_parts(directory):
        refuse_foreign_content(directory)
    elif identity is not None and identity.stage is Stage.CREATING:
        _remove_created(directory)
    else:
        return False
    create_parts(directory, lock, groups)
    return True


def _check_existing(directory: Path, lock: StoreLock) -> StoreHeader:
    """The header of a store that may be served in this directory."""
    identity = lock.identity()
    if identity is not None:
        refuse_unfinished(directory, identity)
    _refuse_strangers(directory, identity)
    if identity is not None:
        refuse_other_location(directory, identity, lock.location)
    upgrade(directory)
    header = check_parts(directory, identity)
    if identity is None:
        # A store of a build without identities.
        with suppress(LimitExceeded):
            lock.write(header.store_id)
    remove_unfinished(directory)
    return header


def upgrade_parts(directory: Path, identity: Identity | None) -> tuple[str, ...]:
    """Upgrades the parts of a store that have the previous format version, after checking that they belong
    together. Returns the upgraded parts. The caller owns the store.
    """
    _refuse_strangers(directory, identity)
    return upgrade(directory)


def _refuse_strangers(directory: Path, identity: Identity | None) -> None:
    """Raises DataLoss unless both parts are complete and of the same store, whatever their version."""
    refuse_broken_files(directory)
    with ExitStack() as opened:
        ids = []
        for part in STORE_PARTS:
            environment = Environment(directory / part, read_only=True, is_owned=True)
            opened.callback(environment.close)
            ids.append(read_store_id(opened.enter_context(environment.reading())))
        refuse_strangers(directory, identity, *ids)


def check_parts(directory: Path, identity: Identity | None) -> StoreHeader:
    """The header of the store in a directory, whose lock is held. Raises as `Store.open` does for a store
    that is incomplete.
    """
    if identity is not None:
        refuse_unfinished(directory, identity)
    with viewed(directory, identity, is_owned=True) as view:
        refuse_empty_lock(directory, identity, view.log)
        return view.header


def _refuse_without_lock(directory: Path) -> None:
    if has_parts(directory):
        refuse_broken_files(directory, with_lock=True)
        refuse_missing_lock(directory)
    refuse_foreign_content(directory)


def _remove_created(directory: Path) -> None:
    """Removes what an interrupted creation left: parts without data."""
    remove_unfinished(directory)
    for part in STORE_PARTS:
        if not (directory / part).exists():
            continue
        if not _is_pristine(directory / part):
            raise lost(directory, f"{LOCK_FILE} says that it is being created, and {part} holds data")
        shutil.rmtree(directory / part)


def _is_pristine(part: Path) -> bool:
    """Whether a part is unchanged since its creation."""
    try:
        check_data_file(part / DATA_FILE)
    except BrokenFile:
        return False
    environment = Environment(part, read_only=True, is_owned=True)
    try:
        with environment.reading() as txn:
            return all(family_of(found) in CREATED_FAMILIES for found in txn.keys(b""))
    finally:
        environment.close()
