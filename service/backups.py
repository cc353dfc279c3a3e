"""Backups in the configured directory: written one at a time, listed and deleted."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog

from engine.backends.base import Upkeep
from engine.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidInput, MilepostError, NotFound
from engine.resources.names import Resource, check_name, chosen_or_made_id, is_id
from engine.resources.paging import Page, Pages
from engine.values import Micros
from service.directories import reason_of

UNFINISHED_PREFIX = ".unfinished-"
DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
RECORD_FILE = "backup.json"
"""What is known of a backup, in its directory. Backups of earlier builds have none."""
NANOS_PER_MICRO = 1_000

_logger = structlog.get_logger("milepost.backups")


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A complete backup. `revision` is that of the store `store_id`, both empty when unknown."""

    name: str
    directory: Path
    size_bytes: int
    create_time: Micros
    store_id: str
    revision: int


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    store_id: str = ""
    revision: int = 0
    create_time: Micros


class Backups:
    """The backups of one store. Safe to call from several threads."""

    def __init__(self, directory: Path | None, pages: Pages, clock: Callable[[], Micros]) -> None:
        """Without a directory there are no backups, and none can be made."""
        self._given = directory
        self._pages = pages
        self._clock = clock
        self._writing = threading.Lock()

    def create(
        self, store: Upkeep, backup_id: str, *, store_id: str, revision: int, may_go_on: Callable[[], None]
    ) -> Backup:
        """Writes a consistent copy of the store at `revision` or later.

        The copy is renamed once it is complete, so a directory with that name is always a complete backup.
        `may_go_on` raises to end the work; nothing stays behind then. Raises InvalidInput for a malformed id,
        AlreadyExists when it is taken, Aborted while another backup is written, FailedPrecondition when the
        backup directory cannot be written to.
        """
        if not backup_id:
            raise InvalidInput.one("backup_id", "is required")
        directory = self._directory / chosen_or_made_id(backup_id, "backup_id")
        if not self._writing.acquire(blocking=False):
            raise Aborted(
                "another backup is being written; try again once it is done", reason="BACKUP_UNDER_WAY"
            )
        try:
            if directory.exists():
                raise AlreadyExists(f"backup {backup_id}")
            record = _Record(store_id=store_id, revision=revision, create_time=self._clock())
            return self._written(store, directory, record, may_go_on)
        finally:
            self._writing.release()

    def _written(
        self, store: Upkeep, directory: Path, record: _Record, may_go_on: Callable[[], None]
    ) -> Backup:
        began = time.monotonic()
        try:
            with _unfinished_in(self._directory) as unfinished:
                store.snapshot(unfinished, may_go_on)
                _write_record(unfinished / RECORD_FILE, record)
                may_go_on()
                # Before others can delete it.
                made = _backup(unfinished, directory)
                unfinished.rename(directory)
        except MilepostError as error:
            _logger.warning("backup failed", backup=directory.name, reason=error.reason, error=error.message)
            raise
        _logger.info(
            "backup written",
            backup=directory.name,
            revision=made.revision,
            size_bytes=made.size_bytes,
            seconds=round(time.monotonic() - began, 3),
        )
        return made

    @property
    def _directory(self) -> Path:
        if self._given is None:
            raise FailedPrecondition(
                "a service with a store in memory makes backups only in a directory that --backup-dir names",
                reason="BACKUP_DIRECTORY_UNUSABLE",
            )
        return self._given

    def list(self, *, page_size: int, page_token: str) -> Page[Backup]:
        """Complete backups, newest first. Raises InvalidInput for a token of another list."""
        return self._pages.of(
            self._all(),
            lambda backup: (backup.create_time, backup.name),
            ("ListBackups",),
            page_size=page_size,
            page_token=page_token,
            descending=True,
        )

    def delete(self, name: str) -> None:
        """Deletes a backup, at once for those who list. Raises InvalidInput and NotFound."""
        check_name(name, "name", Resource.BACKUP)
        if self._given is None:
            raise NotFound(name)
        directory = self._directory / name.rpartition("/")[2]
        if not directory.is_dir():
            raise NotFound(name)
        with _unfinished_in(self._directory) as unfinished:
            try:
                directory.rename(unfinished / directory.name)
            except FileNotFoundError:
                raise NotFound(name) from None
        _logger.info("backup deleted", backup=directory.name)

    def _all(self) -> Iterator[Backup]:
        if self._given is None or not self._given.is_dir():
            return
        for directory in self._given.iterdir():
            if is_id(directory.name) and directory.is_dir():
                try:
                    yield _backup(directory, directory)
                except FileNotFoundError:
                    # Deleted meanwhile.
                    continue


def check_backup_dir(backup_dir: Path) -> None:
    """Creates the directory unless it exists, and tries to write into it. Raises FailedPrecondition."""
    with _unfinished_in(backup_dir):
        pass


def _backup(content: Path, directory: Path) -> Backup:
    """The backup with the content of a directory, which is in `directory` or will be."""
    record = _record(content)
    return Backup(
        name=f"backups/{directory.name}",
        directory=directory,
        size_bytes=sum(file.stat().st_size for file in content.rglob("*") if file.is_file()),
        create_time=record.create_time,
        store_id=record.store_id,
        revision=record.revision,
    )


def _write_record(path: Path, record: _Record) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE), "wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())


def _record(directory: Path) -> _Record:
    try:
        return msgspec.json.decode((directory / RECORD_FILE).read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return _Record(create_time=directory.stat().st_mtime_ns // NANOS_PER_MICRO)


@contextmanager
def _unfinished_in(backup_dir: Path) -> Iterator[Path]:
    """A new directory below the backup directory; removed at the end, unless it was renamed."""
    try:
        backup_dir.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=backup_dir))
    except OSError as error:
        raise FailedPrecondition(
            f"the backup directory {backup_dir} cannot be written to: {reason_of(error)}; choose another"
            " with --backup-dir",
            reason="BACKUP_DIRECTORY_UNUSABLE",
        ) from error
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
