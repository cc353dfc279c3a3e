"""Files of events and of users into a service: Parquet, CSV and NDJSON, in segments that are each sent once.

`import_file` is the whole of it; the modules are one format each, what is remembered between runs, and what
was refused.
"""

from __future__ import annotations

from milepost.importing.errors import CannotBegin, CannotImport, CannotResume
from milepost.importing.run import FileImported, SideFiles, import_file
from milepost.importing.settings import Settings
from milepost.importing.source import Format
from milepost.importing.user_settings import Consent, UserSettings

__all__ = [
    "CannotBegin",
    "CannotImport",
    "CannotResume",
    "Consent",
    "FileImported",
    "Format",
    "Settings",
    "SideFiles",
    "UserSettings",
    "import_file",
]
