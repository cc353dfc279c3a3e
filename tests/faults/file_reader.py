"""A consumer of a file output: reads finished files and the open one, each line once, and removes what is
finished once it has read it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from service.delivery.sinks.finished_files import GZIP_SUFFIX, finished_files

IDLE_S = 0.02


class FileReader:
    """Reads the events that a connection writes to `path`, as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._consumed = 0
        """Bytes read of the file that is finished next."""
        self._finished = ""
        """Name of the finished file that was read last, without the suffix of compressed ones."""

    def read(self) -> Iterator[dict[str, Any]]:
        """What is new."""
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as opened:
            current = None
            with contextlib.suppress(FileNotFoundError):
                current = opened.enter_context(self._path.open("rb"))
            # Listed after the open file was opened: all that is older has its own name by now.
            for path in finished_files(self._path):
                yield from self._read_finished(path)
            # Still open after that: nothing is missing in between.
            if current is not None and os.path.samestat(self._path.stat(), os.fstat(current.fileno())):
                yield from self._read_rest(current)
        time.sleep(IDLE_S)

    def _read_finished(self, path: Path) -> Iterator[dict[str, Any]]:
        name = path.name.removesuffix(GZIP_SUFFIX)
        if name > self._finished:
            # It may be compressed just now; then the next round reads the other one.
            with gzip.open(path) if path.suffix == GZIP_SUFFIX else path.open("rb") as file:
                yield from self._read_rest(file)
            self._finished, self._consumed = name, 0
        path.unlink()

    def _read_rest(self, file: BinaryIO | gzip.GzipFile) -> Iterator[dict[str, Any]]:
        file.seek(self._consumed)
        text = file.read()
        # The last line may be torn.
        whole = text.rfind(b"\n") + 1
        self._consumed += whole
        yield from map(json.loads, text[:whole].splitlines())
