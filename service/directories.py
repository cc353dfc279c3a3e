"""Why a directory that a setting names cannot be used."""

from __future__ import annotations

from pathlib import Path

from engine.errors import FailedPrecondition


def reason_of(error: OSError) -> str:
    """Why a directory could not be made or written to."""
    if isinstance(error, FileExistsError):
        return "it is a file"
    if isinstance(error, NotADirectoryError):
        return "a part of its path is a file"
    return error.strerror or str(error)


def check_data_dir(directory: Path) -> None:
    """Raises FailedPrecondition when there is a file at its place, or above it."""
    for path in (directory, *directory.parents):
        if path.exists() and not path.is_dir():
            reason = reason_of(FileExistsError() if path == directory else NotADirectoryError())
            raise FailedPrecondition(
                f"the data directory {directory} cannot be used: {reason}; choose another with --data-dir"
            )
