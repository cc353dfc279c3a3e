"""Why a directory that a setting names cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
            raise _unusable(directory, reason)


@contextmanager
def opening_data_dir(directory: Path | None) -> Iterator[None]:
    """Raises FailedPrecondition, with the path and the reason, when the system refuses something in the data
    directory. None: the store has none.
    """
    try:
        yield
    except OSError as error:
        if directory is None or error.filename is None:
            # Of a connection, for example, that the store makes.
            raise
        at = "" if error.filename == str(directory) else f"{error.filename}: "
        raise _unusable(directory, at + reason_of(error)) from error


def os_error_in_words(error: OSError) -> str:
    """What the system refused, without the number of the error."""
    reason = error.strerror or str(error)
    return f"{error.filename} cannot be used: {reason}" if error.filename else reason


def _unusable(directory: Path, reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the data directory {directory} cannot be used: {reason}; choose another with --data-dir"
    )
