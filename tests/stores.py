"""Copies of stores that tests go on with."""

from __future__ import annotations

import shutil
from pathlib import Path

from engine.backends.local.offline import adopt


def go_on_with(directory: Path) -> Path:
    """Lets a backup, or a copy of a store, be opened where it is, as the store that it is a copy of."""
    adopt(directory, moved=True)
    return directory


def crash_image(directory: Path, into: Path) -> Path:
    """What the disk holds of a store at this moment, in another directory, ready to be opened."""
    shutil.copytree(directory, into)
    return go_on_with(into)
