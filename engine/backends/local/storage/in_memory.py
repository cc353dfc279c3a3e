"""Stores in memory: the embedded store over files that have no names.

The files are created in the file system in memory, and their names are removed as soon as the store is
open. From then on they belong to the process alone. When it ends, also by SIGKILL, the system frees them.
Where there is no file system in memory, the same is done in the directory for temporary files: nothing stays
there either, but the system may write pages of the files to that disk while the process runs.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCATION = ":memory:"
"""The location of a store in memory: `local::memory:` is its URL."""

MEMORY_DIRECTORY = Path("/dev/shm")
PREFIX = "milepost-memory-"


def memory_directory() -> Path:
    """Where files of stores in memory are created: the file system in memory, if there is one."""
    is_usable = MEMORY_DIRECTORY.is_dir() and os.access(MEMORY_DIRECTORY, os.W_OK | os.X_OK)
    return MEMORY_DIRECTORY if is_usable else Path(tempfile.gettempdir())


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A new private directory there, for the length of the block."""
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=memory_directory()) as directory:
        yield Path(directory)
