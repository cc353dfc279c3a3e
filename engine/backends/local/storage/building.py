"""Builds new parts in a temporary directory, and moves them into position once they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.backends.local.storage.parts import STORE_PARTS

UNFINISHED_PREFIX = ".unfinished-"


@contextmanager
def unfinished_inside(directory: Path) -> Iterator[Path]:
    """A temporary directory inside the given one, on the same file system even if that is a mount point.
    Removed at the end.
    """
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=directory))
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(directory: Path) -> None:
    """Removes what a process left that was killed while building."""
    for left in directory.glob(f"{UNFINISHED_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


def put_parts_in_place(built: Path, directory: Path) -> None:
    """Moves both parts into a directory that has none, durably."""
    for part in STORE_PARTS:
        sync_directory(built / part)
        (built / part).rename(directory / part)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """Makes names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
