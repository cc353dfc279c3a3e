"""Why a file is not imported.

CannotImport            the file cannot be read, or not with these settings
├── CannotResume        a former run forbids it; the message says what would happen and gives the ways on
└── NoTarget            the account or the input does not exist, so no file can be imported
"""

from __future__ import annotations

from collections.abc import Sequence


class CannotImport(Exception):
    """The file cannot be read, or not with these settings; the message says why."""


class CannotResume(CannotImport):
    """A former run left rows in the service, and this one could count them twice.

    `options`, added to the command, do it all the same.
    """

    def __init__(self, message: str, options: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.options = tuple(options)


class NoTarget(CannotImport):
    """The account or the input does not exist, or none was given."""
