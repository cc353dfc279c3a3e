"""Helpers for stores in tests: flushing and copying."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.backends.base import Store
from engine.backends.local.offline import adopt
from engine.backends.local.roles.checkpoints import Checkpoints


def settle(store: Store) -> None:
    """Flushes a store's memory to disk: a checkpoint, if the backend has one."""
    if isinstance(store, Checkpoints):
        store.checkpoint()


def go_on_with(directory: Path) -> Path:
    """Lets a backup or a copy be opened in place, as the original store."""
    adopt(directory, moved=True)
    return directory


def crash_image(directory: Path, into: Path) -> Path:
    """A copy of the store's files at this moment, ready to be opened."""
    shutil.copytree(directory, into)
    return go_on_with(into)
