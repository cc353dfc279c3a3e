"""Why a file is not imported."""

from __future__ import annotations


class CannotImport(Exception):
    """The file cannot be read, or not with these settings; the message says why."""


class CannotResume(CannotImport):
    """A former run broke off in a way that this one cannot safely go on from."""
