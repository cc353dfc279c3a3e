"""Checks all files of a run before a row is sent, and finds the kinds of their columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from milepost.importing.checks import check_columns, unknown_kinds, unused_options
from milepost.importing.errors import CannotBegin, CannotImport, naming
from milepost.importing.formats import Format, format_of, open_source
from milepost.importing.kinds import ColumnKinds, Values
from milepost.importing.settings import Reading
from milepost.importing.source import SEGMENT_ROWS
from milepost.importing.user_settings import AnySettings


@dataclass(frozen=True)
class Survey:
    """The kinds of columns of the sound files, and the faults of the others."""

    kinds: ColumnKinds
    faults: Mapping[Path, CannotImport]


def survey(
    paths: Sequence[Path], format_: Format, settings: AnySettings, begins: Callable[[Path], None]
) -> Survey:
    """Checks the files, and calls `begins` before each. Reads CSV files to the end.

    Raises CannotBegin if the settings give a kind to an attribute that no file has, or leave out or take
    apart a column that no file has.
    """
    # With kinds given, a file is opened without being read.
    opening = dataclasses.replace(settings, found_kinds={})
    finder = KindFinder(settings)
    faults: dict[Path, CannotImport] = {}
    columns: dict[str, None] = {}
    used: set[tuple[str, str]] = set()
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
        used |= source.shaping.used
        has_all_columns = has_all_columns and source.columns is not None and source.has_all_columns
    if sound and has_all_columns:
        known = list(columns)
        if unknown := [*unknown_kinds(known, settings), *unused_options(used, known, settings)]:
            raise CannotBegin("; ".join(unknown))
    for path in sound:
        begins(path)
        try:
            with naming(path):
                finder.add(path, format_)
        except CannotImport as error:
            faults[path] = error
    return Survey(finder.found(), faults)


class KindFinder:
    """Finds the kinds of columns over the files of a run: `add` each, then call `found`."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._columns: dict[str, Values] = {}

    def add(self, path: Path, format_: Format) -> None:
        """Reads a CSV file; other formats have kinds of their own. Raises CannotImport; the file does not
        count then.
        """
        if (format_of(path) if format_ is Format.AUTO else format_) is not Format.CSV:
            return
        from milepost.importing.csv_kinds import values_of

        for column, values in values_of(path, self._reading).items():
            if column in self._columns:
                self._columns[column].merge(values)
            else:
                self._columns[column] = values

    def found(self) -> ColumnKinds:
        """The kinds of the columns of all files so far."""
        return ColumnKinds([values.found(column) for column, values in self._columns.items()])
