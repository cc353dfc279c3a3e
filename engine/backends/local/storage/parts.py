"""The parts of a store: whether a directory has them all and they belong together.

Nothing here writes. A store with a part that is missing, empty, truncated, from another store or from
another time is not taken for a new directory, and is neither served nor written to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from engine.backends.local.storage.data_file import BrokenFile, check_data_file
from engine.backends.local.storage.environment import DATA_FILE
from engine.backends.local.storage.header import StoreHeader, read_header, read_store_id
from engine.backends.local.storage.keys import Family
from engine.backends.local.storage.ownership import LOCK_FILE, Identity, Location, Stage, lost_lock
from engine.backends.local.storage.positions import read_checkpointed, read_reach
from engine.backends.local.storage.session import read_session
from engine.backends.local.storage.transactions import ReadTransaction
from engine.errors import DataLoss, FailedPrecondition, StoreUnavailable

STORE_PARTS = ("index", "log")
NOT_FOREIGN = frozenset({"lost+found"})
"""Entries of an empty file system."""


class Broken(NamedTuple):
    """A part that cannot be used, and why."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part} {self.reason}"


def has_parts(directory: Path) -> bool:
    """Whether the directory holds any part of an index or a log, complete or not."""
    return any((directory / part).exists() for part in STORE_PARTS)


def refuse_foreign_content(directory: Path) -> None:
    """Raises FailedPrecondition (DIRECTORY_NOT_EMPTY) unless a store may be created in the directory: it is
    empty except for its lock file and empty directories, which are mount points.
    """
    if not directory.is_dir():
        raise FailedPrecondition(f"{directory} is not a directory", reason="DIRECTORY_NOT_EMPTY")
    foreign = sorted(child.name for child in directory.iterdir() if _is_foreign(child))
    if foreign:
        raise FailedPrecondition(
            f"{directory} holds no store and is not empty ({_some(foreign)}): "
            "choose an empty or new directory, or move its content away",
            reason="DIRECTORY_NOT_EMPTY",
        )


def _is_foreign(child: Path) -> bool:
    if child.name in NOT_FOREIGN or child.name == LOCK_FILE:
        return False
    return child.name in STORE_PARTS or not child.is_dir() or any(child.iterdir())


def _some(names: list[str], most: int = 3) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


# --- single parts -------------------------------------------------------------------------------------------


def refuse_broken_files(directory: Path, *, with_lock: bool = False) -> None:
    """Raises DataLoss (STORE_PART_LOST) naming every data file that is missing, empty, truncated or not an
    LMDB file; `with_lock`, also a missing lock file.
    """
    broken = list(_broken_files(directory))
    if broken and with_lock and not (directory / LOCK_FILE).exists():
        broken.insert(0, Broken(LOCK_FILE, "is missing"))
    if broken:
        raise lost(directory, ", ".join(map(str, broken)))


def _broken_files(directory: Path) -> Iterator[Broken]:
    for part in STORE_PARTS:
        try:
            check_data_file(directory / part / DATA_FILE)
        except BrokenFile as error:
            yield Broken(f"{part}/{DATA_FILE}", str(error))


def lost(directory: Path, what: str) -> DataLoss:
    """The error for an incomplete store."""
    return DataLoss(
        f"the store in {directory} has lost a part: {what}. Nothing was changed. Put the missing files back, "
        "or restore a backup into another directory with `milepost store restore`",
        reason="STORE_PART_LOST",
    )


# --- the parts together -------------------------------------------------------------------------------------


def check_pair(
    directory: Path, log: ReadTransaction, index: ReadTransaction, identity: Identity | None
) -> StoreHeader:
    """The header of the store with this log and index. Raises DataLoss (STORE_PART_LOST) when one of them
    holds no store, when they or the identity belong to different stores, or when one is older than the other;
    StoreUnavailable (STORE_FORMAT) when their format is not this version's.
    """
    with _located(directory):
        refuse_strangers(directory, identity, read_store_id(index), read_store_id(log))
        index_header, header = read_header(index), read_header(log)
        if index_header is None or header is None or _without_id(index_header) != _without_id(header):
            raise lost(directory, "the headers of index and log contradict each other")
        _check_times(directory, log, index)
    return header


@contextmanager
def _located(directory: Path) -> Iterator[None]:
    """Adds to damage found while opening the directory and the way to recover."""
    try:
        yield
    except DataLoss as error:
        if error.reason != DataLoss.default_reason:
            raise
        raise DataLoss(
            f"the store in {directory} is damaged: {error.message}. Restore a backup into another directory",
            reason=error.reason,
            metadata=error.metadata,
        ) from error


def refuse_strangers(
    directory: Path, identity: Identity | None, index_id: str | None, log_id: str | None
) -> None:
    """Raises DataLoss (STORE_PART_LOST) unless index and log have the same store id, which is also that of
    the lock file.
    """
    if index_id is None or log_id is None:
        pairs = zip(STORE_PARTS, (index_id, log_id), strict=True)
        empty = [Broken(f"{part}/{DATA_FILE}", "holds no store") for part, found in pairs if not found]
        raise lost(directory, ", ".join(map(str, empty)))
    expected = {log_id} if identity is None else {identity.store_id}
    if identity is not None and identity.stage is Stage.ADOPTING:
        # Interrupted between writing the two headers.
        expected.add(identity.previous_id)
    if not {index_id, log_id} <= expected:
        ids = "" if identity is None else f"lock of {identity.store_id}, "
        raise lost(
            directory, f"its parts belong to different stores ({ids}index of {index_id}, log of {log_id})"
        )


def _without_id(header: StoreHeader) -> tuple[object, ...]:
    return tuple(getattr(header, name) for name in header.__struct_fields__ if name != "store_id")


def _check_times(directory: Path, log: ReadTransaction, index: ReadTransaction) -> None:
    log_session, index_session = read_session(log), read_session(index)
    if not log_session.fits(index_session):
        raise lost(directory, _older("log" if log_session.number < index_session.number else "index"))
    checkpointed, reach = read_checkpointed(index).position, read_reach(log)
    if reach.newest is not None and reach.newest < checkpointed:
        raise lost(
            directory, f"{_older('log')} (it ends at revision {reach.newest}, index at {checkpointed})"
        )
    if reach.trimmed is not None and reach.trimmed > checkpointed:
        raise lost(
            directory,
            f"{_older('index')} (it ends at revision {checkpointed}, log begins after {reach.trimmed})",
        )


def _older(part: str) -> str:
    (other,) = set(STORE_PARTS) - {part}
    return f"{part} is from an earlier time than {other}"


# --- the directory ------------------------------------------------------------------------------------------


def refuse_unfinished(directory: Path, identity: Identity) -> None:
    """Raises StoreUnavailable (STORE_UNFINISHED) when an operation on the directory is incomplete."""
    again = {
        Stage.CREATING: "start the service in it again",
        Stage.RESTORING: f"run `milepost store restore BACKUP --data {directory}` again",
        Stage.ADOPTING: f"run `milepost store adopt --data {directory}` again",
        Stage.MOVING: "run `milepost store export` with the same backup again",
    }.get(identity.stage)
    if again is not None:
        raise StoreUnavailable(
            f"{identity.stage.value} the store in {directory} was interrupted: {again}",
            reason="STORE_UNFINISHED",
        )


def refuse_empty_lock(directory: Path, identity: Identity | None, log: ReadTransaction) -> None:
    """Raises DataLoss (STORE_PART_LOST) when the lock file of a store is empty. A backup has no lock file,
    and only builds without sessions left it empty.
    """
    if identity is None and (directory / LOCK_FILE).exists() and read_session(log).number > 0:
        raise lost_lock(directory, "is empty")


def refuse_missing_lock(directory: Path) -> NoReturn:
    """Raises DataLoss (STORE_PART_LOST): the directory holds an index and a log, and no lock file."""
    raise DataLoss(
        f"{directory} has no file lock: it is a backup, or a copy. Restore it into another directory with "
        f"`milepost store restore {directory} --data NEW`, or turn it into a store in place with "
        f"`milepost store adopt --data {directory}`",
        reason="STORE_PART_LOST",
        metadata={"key_family": Family.META.name},
    )


def refuse_other_location(directory: Path, identity: Identity, location: Location) -> None:
    """Raises StoreUnavailable (STORE_COPIED) when the lock file was copied here."""
    if not identity.location.is_same(location):
        raise StoreUnavailable(
            f"the store {identity.store_id} in {directory} was copied, or moved from another file system. "
            f"Give the copy its own id with `milepost store adopt --data {directory}`; if the original "
            f"will not be used again, keep the id with `milepost store adopt --moved --data {directory}`",
            reason="STORE_COPIED",
        )
