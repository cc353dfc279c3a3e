"""Why a file is not imported.

CannotImport            the file cannot be read, or not with these settings
├── CannotResume        a former run forbids it; the message says what would happen and gives the ways on
└── CannotBegin         no file can be imported: no such account or input, or an option names nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class CannotImport(Exception):
    """The file cannot be read, or not with these settings; the message says why."""


class CannotResume(CannotImport):
    """A former run left rows in the service, and this one could count them twice.

    `options`, added to the command, do it all the same.
    """

    def __init__(self, message: str, options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)


class CannotBegin(CannotImport):
    """No file can be imported: there is no such account or input, or an option names nothing."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises CannotImport for what goes wrong with a file, and names the file in messages that do not."""
    try:
        yield
    except CannotImport as error:
        if str(path) not in str(error):
            error.args = (f"{path}: {error}",)
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CannotImport(
            f"{path}: {where}{error.strerror or error}. Progress and rejected rows are kept beside the file,"
            " or in --side-dir"
        ) from error
