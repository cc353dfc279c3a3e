"""Backups in the configured directory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from engine.backends.base import Upkeep
from engine.errors import AlreadyExists, InvalidInput
from engine.resources.names import chosen_or_made_id

UNFINISHED_PREFIX = ".unfinished-"


def write_backup(store: Upkeep, backup_dir: Path, backup_id: str) -> Path:
    """Writes a consistent copy of the store and returns its directory.

    The copy gets its name once it is whole, so that a directory of that name is always a complete backup.
    Raises InvalidInput for a malformed id, AlreadyExists when it is taken.
    """
    if not backup_id:
        raise InvalidInput.one("backup_id", "is required")
    directory = backup_dir / chosen_or_made_id(backup_id, "backup_id")
    if directory.exists():
        raise AlreadyExists(f"backup {backup_id}")
    backup_dir.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=backup_dir))
    try:
        store.snapshot(unfinished)
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return directory
