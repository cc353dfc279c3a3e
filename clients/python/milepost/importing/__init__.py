"""Imports files of events or users: Parquet, CSV and NDJSON, in segments that are each applied once.

`import_file` does all of it. There is a module for each format, for the progress kept between runs, and for
rejected rows.
"""

from __future__ import annotations

from milepost.importing.errors import CannotBegin, CannotImport, CannotResume, CannotUse
from milepost.importing.formats import Format
from milepost.importing.run import FileImported, SideFiles, import_file
from milepost.importing.settings import Settings
from milepost.importing.user_settings import Consent, UserSettings

__all__ = [
    "CannotBegin",
    "CannotImport",
    "CannotResume",
    "CannotUse",
    "Consent",
    "FileImported",
    "Format",
    "Settings",
    "SideFiles",
    "UserSettings",
    "import_file",
]
