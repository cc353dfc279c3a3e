"""Why a file is not imported.

CannotImport            the file cannot be read, or not with these settings
├── CannotResume        an earlier run forbids it; the message says what would happen and gives the ways on
└── CannotBegin         no file can be imported: no such account or input
    └── CannotUse       an option has no value that could be used, whatever the service and the files have
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class CannotImport(Exception):
    """The file cannot be read, or not with these settings; the message says why."""


class CannotResume(CannotImport):
    """An earlier run left rows in the service, and this one could count them twice.

    With `options` added, the command runs anyway.
    """

    def __init__(self, message: str, options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)


class CannotBegin(CannotImport):
    """No file can be imported: the account or input does not exist."""


class CannotUse(CannotBegin):
    """An option is missing or has a value of the wrong form, whatever the service and the files have."""


def nameless(where: str, row: int, value: object) -> CannotImport:
    """The refusal of a value in a column without a name. `where` says which column."""
    return CannotImport(
        f"{where} has no name, but row {row} has {value!r} in it: name it, or leave it out with --exclude ''"
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turns OSError into CannotImport, and adds the file to messages that do not name it."""
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
