"""A look at all files of a run before a row is sent: what they cannot be imported for, and the kinds of their
columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milepost.importing.checks import check_columns, unknown_kinds
from milepost.importing.errors import CannotBegin, CannotImport, naming
from milepost.importing.kinds import KindTeller, Told
from milepost.importing.source import SEGMENT_ROWS, Format, open_source
from milepost.importing.user_settings import AnySettings


@dataclass(frozen=True)
class Survey:
    """What the columns of the sound files are, and what is wrong with the others."""

    told: Told
    faults: Mapping[Path, CannotImport]


def survey(
    paths: Sequence[Path], format_: Format, settings: AnySettings, begins: Callable[[Path], None]
) -> Survey:
    """Looks at the files; `begins` is called before each. CSV files are read to their ends.

    Raises CannotBegin when the settings give a kind to an attribute that none of the files has.
    """
    # Without its kinds a file is opened without being read.
    opening = dataclasses.replace(settings, told={})
    teller = KindTeller(settings)
    faults: dict[Path, CannotImport] = {}
    columns: dict[str, None] = {}
    has_all_columns = True
    sound = []
    for path in paths:
        try:
            with naming(path):
                source = open_source(path, format_, opening, SEGMENT_ROWS)
                check_columns(source, settings, kinds=len(paths) == 1)
        except CannotImport as error:
            faults[path] = error
            continue
        sound.append(path)
        columns.update(dict.fromkeys(source.columns or ()))
        has_all_columns = has_all_columns and source.columns is not None and source.has_all_columns
    if sound and has_all_columns and (unknown := unknown_kinds(list(columns), settings)):
        raise CannotBegin("; ".join(unknown))
    for path in sound:
        begins(path)
        try:
            with naming(path):
                teller.add(path, format_)
        except CannotImport as error:
            faults[path] = error
    return Survey(teller.told(), faults)
