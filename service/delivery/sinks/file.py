"""NDJSON files: one CloudEvent in JSON a line, `{output directory}/{account}/{path}/{connection}.ndjson`.

The file is synced before a batch counts as delivered. A crash can leave a torn last line, which is removed
when the file is opened again, or a batch on disk whose cursor was not saved. The ids of the last lines are
read back, so that such a batch is not written twice.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from engine.audiences.deliveries import Delivery
from engine.errors import FailedPrecondition
from engine.resources.records import account_of
from engine.resources.targets import File
from service.delivery.sinks.sink import Event, SinkError

TAIL_BYTES_MAX = 4 * 1024 * 1024
"""Bytes read back for ids: more than the largest batch, whose cursor may be missing."""

SUFFIX = ".ndjson"


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
            f"the output directory {output_dir} cannot be written to: {error.strerror}; choose another with "
            "--output-dir"
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
    def open(cls, delivery: Delivery, output_dir: Path | None) -> FileSink:
        """The sink of a delivery to an output of kind `file`. Raises SinkError for an unusable path, and when
        the service has no directory for files.
        """
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
            name, wrong = delivery.output.name, fault.description
            raise SinkError(f"the path of {name} {wrong}: change it with UpdateOutput", final=True)
        connection = delivery.connection.name
        return cls(file_path(output_dir, account_of(connection), target.path, connection))

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._recent: set[str] = set()
        self._end: int | None = None
        """Length of the file after the last batch; None: unknown."""

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._file is not None

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        """Appends the events that the file does not end with, and syncs. Raises SinkError. A write to a local
        disk cannot be ended, so the deadline does not matter.
        """
        try:
            file = self._opened()
            fresh = [event for event in events if event.id not in self._recent]
            file.write(b"".join(event.body + b"\n" for event in fresh))
            file.flush()
            os.fsync(file.fileno())
            self._end = file.tell()
        except OSError as error:
            # The state on disk is unknown: the next attempt reopens the file and reads it.
            self._end = None
            self.close()
            raise SinkError(f"{self._path}: {error.strerror}") from error
        self._recent = {event.id for event in events}

    def close(self) -> None:
        """Closes the file; a later delivery opens it again."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError:
                # The buffer could not be written; the batch was not acknowledged and will be sent again.
                return

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            made = not self._path.exists()
            file = open(self._path, "a+b")  # noqa: SIM115 - kept open between batches
            try:
                if self._end is None or file.seek(0, os.SEEK_END) != self._end:
                    self._recent = _recover(file)
                if made:
                    _sync_directory(self._path.parent)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file


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


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
