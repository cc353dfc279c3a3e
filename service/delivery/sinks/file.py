"""NDJSON files: one CloudEvent in JSON a line, `{output directory}/{account}/{path}/{connection}.ndjson`.

The file is synced before a batch counts as delivered. A crash can leave a torn last line, which is removed
when the file is opened again, or a batch on disk whose cursor was not saved. The ids of the last lines are
read back, so that such a batch is not written twice.

Anyone may remove or rename the file at any time: before and after each write the sink looks whether its name
still leads to it, and otherwise begins a new one. The sink itself renames a file that is finished. It does so
only while everything in the file is confirmed, so a batch that is sent again is never in a finished file.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.audiences.deliveries import Delivery
from engine.errors import FailedPrecondition
from engine.resources.records import account_of
from engine.resources.targets import File
from engine.values import MICROS_PER_SECOND
from service.delivery.sinks.finished_files import (
    COMPRESSOR,
    GZIP_SUFFIX,
    SUFFIX,
    finish,
    finished_files,
    sync_directory,
)
from service.delivery.sinks.sink import NEVER, Event, SinkError, Surroundings
from service.directories import reason_of

TAIL_BYTES_MAX = 4 * 1024 * 1024
"""Bytes read back for ids: more than the largest batch, whose cursor may be missing."""

WRITES_MAX = 3
"""Times that a batch is written when the file is removed or renamed meanwhile."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a file is finished: at `max_bytes`, or `max_age_s` after its first change (0 = never). `gzip` says
    whether it is compressed then.
    """

    max_bytes: int = 0
    max_age_s: float = 0.0
    gzip: bool = False


class _Line(msgspec.Struct):
    id: str


def check_output_dir(output_dir: Path) -> None:
    """Creates the directory unless it exists, and tries to write into it. Raises FailedPrecondition."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise FailedPrecondition(
            f"the output directory {output_dir} cannot be written to: {reason_of(error)}; choose another"
            " with --output-dir"
        ) from error


def file_path(output_dir: Path, account: str, path: str, connection: str) -> Path:
    """The file of a connection (account and connection by resource name). Raises SinkError when `path`
    is outside of the output directory.
    """
    account_dir = output_dir.resolve() / account.rsplit("/", 1)[-1]
    directory = (account_dir / path).resolve()
    if not directory.is_relative_to(account_dir):
        raise SinkError(f"{path!r} is outside of the output directory", final=True)
    return directory / (connection.rsplit("/", 1)[-1] + SUFFIX)


class FileSink:
    """Appends to one file."""

    @classmethod
    def open(cls, delivery: Delivery, surroundings: Surroundings) -> FileSink:
        """The sink of a delivery to an output of kind `file`. Raises SinkError for an unusable path, and when
        the service has no directory for files.
        """
        output_dir = surroundings.output_dir
        if output_dir is None:
            raise SinkError(
                "a service with a store in memory writes files only to a directory that --output-dir names",
                final=True,
            )
        target = delivery.output.target
        assert isinstance(target, File)
        # Outputs of earlier builds had no limit on their paths.
        fault = next(iter(target.faults()), None)
        if fault is not None:
            field, name, wrong = fault.field.rpartition(".")[2], delivery.output.name, fault.description
            raise SinkError(f"the {field} of {name} {wrong}: change it with UpdateOutput", final=True)
        connection = delivery.connection.name
        rotation = Rotation(target.max_bytes, target.max_age / MICROS_PER_SECOND, target.gzip)
        return cls(file_path(output_dir, account_of(connection), target.path, connection), rotation)

    def __init__(
        self, path: Path, rotation: Rotation = Rotation(), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._clock = clock
        self._rotation = rotation
        self._file: BinaryIO | None = None
        self._recent: set[str] = set()
        """Ids in the file that may not be confirmed yet."""
        self._end: int | None = None
        """Length of the file after the last batch; None: unknown."""
        self._begun_at: float | None = None
        """When the file had its first change, as far as this process knows: an instant of `time.monotonic()`.
        None: it is unknown or the file is empty.
        """
        self._resumed = False

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._file is not None

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        """Appends the events that the file does not end with, and syncs. Raises SinkError. A write to a local
        disk cannot be ended, so the deadline does not matter.
        """
        try:
            for _ in range(WRITES_MAX):
                file = self._opened()
                if self._is_due() and not any(event.id in self._recent for event in events):
                    # All of the batch is new, so everything before it is confirmed.
                    self._finish()
                    file = self._opened()
                self._append(file, events)
                if _leads_to(self._path, file):
                    break
                # Removed or renamed while it was written to: the events may have gone with it.
                self._lose()
            else:
                raise SinkError(f"{self._path}: the file is removed again and again")
        except OSError as error:
            # The state on disk is unknown: the next attempt reopens the file and reads it.
            self._forget()
            raise SinkError(f"{self._path}: {error.strerror}") from error
        self._recent = {event.id for event in events}

    def tend(self) -> float:
        """Finishes the file when its age says so. Everything in it must be confirmed. Returns when to call
        again, an instant of `time.monotonic()`. Raises SinkError.
        """
        try:
            self._resume()
            if self._rotation.max_age_s and self._begun_at is None and self._has_changes():
                self._begun_at = self._clock()
            if self._is_due():
                self._finish()
        except OSError as error:
            raise SinkError(f"{self._path}: {error.strerror}") from error
        if not self._rotation.max_age_s or self._begun_at is None:
            return NEVER
        return self._begun_at + self._rotation.max_age_s

    def close(self) -> None:
        """Closes the file; a later delivery opens it again."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                # The buffer could not be written; the batch was not acknowledged and will be sent again.
                return

    # --- writing --------------------------------------------------------------------------------------------

    def _append(self, file: BinaryIO, events: Sequence[Event]) -> None:
        fresh = [event.body for event in events if event.id not in self._recent]
        if not fresh:
            return
        # Joins with the line ends, the last one included.
        fresh.append(b"")
        file.write(b"\n".join(fresh))
        file.flush()
        os.fsync(file.fileno())
        self._end = file.tell()
        if self._begun_at is None:
            self._begun_at = self._clock()

    def _opened(self) -> BinaryIO:
        if self._file is not None and not _leads_to(self._path, self._file):
            self._lose()
        if self._file is None:
            self._resume()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            made = not self._path.exists()
            file = open(self._path, "a+b")  # noqa: SIM115 - kept open between batches
            try:
                size = file.seek(0, os.SEEK_END)
                if self._end is None or size != self._end:
                    self._recent = _recover(file)
                    self._end = file.tell()
                    if self._begun_at is None and self._end > 0:
                        self._begun_at = self._clock()
                if made:
                    sync_directory(self._path.parent)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file

    def _forget(self) -> None:
        """Closes the file; the next one that is opened is read anew."""
        self.close()
        self._end = None

    def _lose(self) -> None:
        """Closes a file that is no longer there; the next one is another."""
        self._forget()
        self._begun_at = None

    # --- finishing ------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        """Whether the file has to be finished."""
        rotation, size = self._rotation, self._end or 0
        if rotation.max_bytes and size >= rotation.max_bytes:
            return True
        age_s = 0.0 if self._begun_at is None else self._clock() - self._begun_at
        return bool(rotation.max_age_s) and age_s >= rotation.max_age_s

    def _has_changes(self) -> bool:
        try:
            return self._path.stat().st_size > 0
        except FileNotFoundError:
            return False

    def _finish(self) -> None:
        self._lose()
        self._recent = set()
        try:
            finished = finish(self._path)
        except FileNotFoundError:
            # Removed since the last batch.
            return
        if self._rotation.gzip:
            COMPRESSOR.add(finished)

    def _resume(self) -> None:
        """Compresses, once, what an earlier process has finished and not compressed."""
        if self._resumed or not self._rotation.gzip or not self._path.parent.is_dir():
            return
        self._resumed = True
        for path in finished_files(self._path):
            if path.suffix != GZIP_SUFFIX:
                COMPRESSOR.add(path)


def _leads_to(path: Path, file: BinaryIO) -> bool:
    """Whether the path is still that of the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except (FileNotFoundError, NotADirectoryError):
        return False


def _recover(file: BinaryIO) -> set[str]:
    """Removes a torn last line and returns the ids of the last lines."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - TAIL_BYTES_MAX)
    file.seek(start)
    tail = file.read(TAIL_BYTES_MAX)
    whole = tail.rfind(b"\n") + 1
    if whole < len(tail):
        file.truncate(start + whole)
        file.seek(0, os.SEEK_END)
    lines = tail[:whole].splitlines()
    if start and lines:
        # The first line began before the bytes that were read.
        lines = lines[1:]
    return set(_ids(lines))


def _ids(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=_Line).id
        except (msgspec.DecodeError, UnicodeDecodeError):
            # A foreign line cannot be a duplicate of an event.
            continue
