"""Stores as tests have them: put away, and copied."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.backends.base import Store
from engine.backends.local.backend import LocalBackend
from engine.backends.local.offline import adopt


def settle(store: Store) -> None:
    """Has a store put away what it keeps in memory: a checkpoint, where the backend has such a thing."""
    if isinstance(store, LocalBackend):
        store.checkpoint()


def go_on_with(directory: Path) -> Path:
    """Lets a backup, or a copy of a store, be opened where it is, as the store that it is a copy of."""
    adopt(directory, moved=True)
    return directory


def crash_image(directory: Path, into: Path) -> Path:
    """What the disk holds of a store at this moment, in another directory, ready to be opened."""
    shutil.copytree(directory, into)
    return go_on_with(into)
