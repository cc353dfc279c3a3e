"""NDJSON files: one CloudEvent in JSON a line, `{output directory}/{account}/{path}/{connection}.ndjson`.

The file is synced before a batch counts as delivered. A crash can leave a torn last line, which is cut off
when the file is opened again, or a batch that is on disk although its cursor is not; the ids of the last
lines are read back, so that such a batch is not written twice.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from service.delivery.sinks.sink import Event, SinkError

TAIL_BYTES_MAX = 4 * 1024 * 1024
"""How far back ids are read: more than the largest batch, whose cursor may be missing, fills."""

SUFFIX = ".ndjson"


class _Line(msgspec.Struct):
    id: str


def file_path(output_dir: Path, account: str, path: str, connection: str) -> Path:
    """The file of a connection (account and connection by resource name). Raises SinkError when `path`
    leads out of the output directory.
    """
    account_dir = output_dir.resolve() / account.rsplit("/", 1)[-1]
    directory = (account_dir / path).resolve()
    if not directory.is_relative_to(account_dir):
        raise SinkError(f"{path!r} leads out of the output directory", final=True)
    return directory / (connection.rsplit("/", 1)[-1] + SUFFIX)


class FileSink:
    """Appends to one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._recent: set[str] = set()

    def deliver(self, events: Sequence[Event]) -> None:
        """Appends the events that are not the file's last already, and syncs. Raises SinkError."""
        try:
            file = self._opened()
            fresh = [event for event in events if event.id not in self._recent]
            file.write(b"".join(event.body + b"\n" for event in fresh))
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            # What is on disk is not known now: the next attempt opens the file anew and looks.
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
                self._recent = _recover(file)
                if made:
                    _sync_directory(self._path.parent)
            except BaseException:
                file.close()
                raise
            self._file = file
        return self._file


def _recover(file: BinaryIO) -> set[str]:
    """Cuts off a torn last line and answers the ids of the last lines."""
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
        # The first one began before the part that was read.
        lines = lines[1:]
    return set(_ids(lines))


def _ids(lines: Iterable[bytes]) -> Iterator[str]:
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=_Line).id
        except (msgspec.DecodeError, UnicodeDecodeError):
            # The file has foreign lines. They cannot be duplicates of an event.
            continue


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
