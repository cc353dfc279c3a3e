"""Files and directories that only the owner of the process may read: they hold data of users."""

from __future__ import annotations

from pathlib import Path

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


def make_directory(directory: Path) -> None:
    """Creates the directory with `DIRECTORY_MODE`. One that exists keeps its mode."""
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
