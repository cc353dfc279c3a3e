"""Finished files of file outputs: their names, and their compression in the background.

A finished file is named for the instant at which it was finished, so names sort by age:
`{connection}.20261128T120000.123456Z.ndjson`. Compressed it has `.gz` added. A consumer may read, move or
remove it at any time.
"""

from __future__ import annotations

import datetime as dt
import gzip
import os
import re
import shutil
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import structlog

SUFFIX = ".ndjson"
GZIP_SUFFIX = ".gz"
PARTIAL_SUFFIX = ".partial"
"""Of a compressed file that is still being written. It is removed and written anew after a crash."""

GZIP_LEVEL = 6
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_STAMP_FORM = r"\d{8}T\d{6}\.\d{6}Z"
_ONE_MICROSECOND = dt.timedelta(microseconds=1)

_logger = structlog.get_logger("milepost.delivery")


def finish(path: Path) -> Path:
    """Renames the file of a connection to that of a finished one, later than all others, and syncs the
    directory. Raises OSError.
    """
    now = dt.datetime.now(dt.UTC)
    # The clock may have gone back.
    latest = max(map(_finished_at, finished_files(path)), default=now - _ONE_MICROSECOND)
    stamp = max(now, latest + _ONE_MICROSECOND).strftime(_STAMP)
    finished = path.with_name(f"{path.name.removesuffix(SUFFIX)}.{stamp}{SUFFIX}")
    os.rename(path, finished)
    sync_directory(path.parent)
    return finished


def finished_files(path: Path) -> list[Path]:
    """The finished files of the connection that writes to `path`, oldest first, compressed ones included.
    Raises OSError.
    """
    stem = re.escape(path.name.removesuffix(SUFFIX))
    form = re.compile(rf"{stem}\.{_STAMP_FORM}{re.escape(SUFFIX)}({re.escape(GZIP_SUFFIX)})?")
    return sorted(each for each in path.parent.iterdir() if form.fullmatch(each.name))


def _finished_at(path: Path) -> dt.datetime:
    stamp = path.name.removesuffix(GZIP_SUFFIX).removesuffix(SUFFIX).partition(".")[2]
    return dt.datetime.strptime(stamp, _STAMP).replace(tzinfo=dt.UTC)


def compress(path: Path) -> None:
    """Replaces a finished file by a compressed one with the same lines. Raises OSError.

    The compressed file appears whole, under its name, before the other one goes. After a crash in between
    both are there; the next run removes the other one.
    """
    compressed = path.with_name(path.name + GZIP_SUFFIX)
    if not compressed.exists():
        partial = path.with_name(path.name + PARTIAL_SUFFIX)
        with path.open("rb") as plain, partial.open("wb") as file:
            with gzip.GzipFile(
                filename=path.name, mode="wb", compresslevel=GZIP_LEVEL, fileobj=file
            ) as packed:
                shutil.copyfileobj(plain, packed, 1024 * 1024)
            file.flush()
            os.fsync(file.fileno())
        os.rename(partial, compressed)
        sync_directory(path.parent)
    path.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Makes renames and new files in the directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Compressor:
    """Compresses finished files one after another in a thread of its own, which ends when none is left.

    A large file takes minutes, in which a sender would be missing for other outputs.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Path] = deque()
        self._known: set[Path] = set()
        """Those that wait and the one that is being compressed."""
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        """Compresses the file soon, unless it waits already."""
        with self._lock:
            if path in self._known:
                return
            self._known.add(path)
            self._waiting.append(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="compressor", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        for path in self._paths():
            try:
                compress(path)
            except FileNotFoundError:
                # The consumer took it.
                continue
            except OSError as error:
                # It is complete and stays as it is. The next start tries again.
                _logger.warning("file not compressed", file=path.name, error=error.strerror)
            finally:
                with self._lock:
                    self._known.discard(path)

    def _paths(self) -> Iterator[Path]:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                path = self._waiting.popleft()
            yield path


COMPRESSOR = Compressor()
"""Of this process: all file outputs share it, so that compression takes one core at most."""
