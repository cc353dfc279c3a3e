"""The kinds of the columns of CSV files: found over all files of a run before anything is sent.

A column is of a kind when every value of every file is. With a single value that is not, it is texts, and
`ColumnTold` says which value that is. So no row is lost because its value came late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milepost.importing.settings import Reading
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)

_TOLD_KINDS = (VALUE_KIND_BOOL, VALUE_KIND_NUMBER, VALUE_KIND_TIME)
VALUES_MIN = 1_000
"""Of fewer values, the first ones may be the exceptions."""
_SHOWN_CHARACTERS = 60
_NAMES = {
    VALUE_KIND_BOOL: "bool",
    VALUE_KIND_NUMBER: "number",
    VALUE_KIND_STRING: "string",
    VALUE_KIND_TIME: "time",
}


@dataclass(frozen=True)
class Misfit:
    """A value that is not of the kind that most of its column's values are. `row` counts from 0."""

    file: Path
    row: int
    value: str

    @property
    def is_short(self) -> bool:
        """Whether the value fits into a message."""
        return len(self.value) <= _SHOWN_CHARACTERS

    @property
    def shown(self) -> str:
        """The value for a message, quoted; of a long one its start."""
        if self.is_short:
            return repr(self.value)
        return f"{self.value[:_SHOWN_CHARACTERS]!r}... ({len(self.value):,} characters)"


@dataclass(frozen=True)
class ColumnTold:
    """What a column became. Of one that became texts although at least half of its values are of another
    kind, `almost` is that kind, `fitting` of `values` values are of it, and `misfit` is the first that is
    not. Empty values do not count.
    """

    column: str
    kind: ValueKind.ValueType
    values: int
    almost: ValueKind.ValueType | None = None
    fitting: int = 0
    misfit: Misfit | None = None

    def __str__(self) -> str:
        """For the summary: "amount: string, because 'NA' (e.csv, row 17) is no number; 9 of 10 are"."""
        if self.misfit is None or self.almost is None:
            return f"{self.column}: {_NAMES[self.kind]}"
        where = f"{self.misfit.file.name}, row {self.misfit.row}"
        return (
            f"{self.column}: {_NAMES[self.kind]}, because {self.misfit.shown} ({where}) is no"
            f" {_NAMES[self.almost]}; {self.fitting:,} of {self.values:,} are"
        )


@dataclass(frozen=True)
class Told:
    """The columns of all files, in the order in which they came."""

    columns: Sequence[ColumnTold] = ()

    @property
    def kinds(self) -> Mapping[str, ValueKind.ValueType]:
        """For `Reading.told`."""
        return {each.column: each.kind for each in self.columns}

    @property
    def doubtful(self) -> Sequence[ColumnTold]:
        """The columns that became texts because of some of their values."""
        return [each for each in self.columns if each.misfit is not None]


@dataclass
class Values:
    """What is known of the values of one column."""

    values: int = 0
    fitting: dict[ValueKind.ValueType, int] = field(default_factory=lambda: dict.fromkeys(_TOLD_KINDS, 0))
    misfits: dict[ValueKind.ValueType, Misfit] = field(default_factory=dict)

    @property
    def plausible(self) -> Sequence[ValueKind.ValueType]:
        """The kinds that at least half of the values are of. Once there are enough values, others are not
        looked for any more.
        """
        return [kind for kind in self.fitting if self._is_of(kind) or self.values < VALUES_MIN]

    def _is_of(self, kind: ValueKind.ValueType) -> bool:
        return 2 * self.fitting[kind] >= self.values

    def merge(self, other: Values) -> None:
        """Adds the values of another file."""
        self.values += other.values
        self.fitting = {kind: count + other.fitting[kind] for kind, count in self.fitting.items()}
        self.misfits = {**other.misfits, **self.misfits}

    def told(self, column: str) -> ColumnTold:
        """What the column becomes."""
        kind = max(self.fitting, key=lambda each: self.fitting[each])
        if not self.values or not self._is_of(kind):
            return ColumnTold(column, VALUE_KIND_STRING, self.values)
        fitting = self.fitting[kind]
        if fitting == self.values:
            return ColumnTold(column, kind, self.values)
        return ColumnTold(column, VALUE_KIND_STRING, self.values, kind, fitting, self.misfits[kind])


class KindTeller:
    """Finds the kinds of the files of a run: `add` each, then ask `told`."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._columns: dict[str, Values] = {}

    def add(self, path: Path, format_: Any) -> None:
        """Reads a file; formats other than CSV say the kinds of their values. Raises CannotImport, and then
        nothing of the file counts.
        """
        from milepost.importing.source import Format, told_format

        if (told_format(path) if format_ is Format.AUTO else format_) is not Format.CSV:
            return
        from milepost.importing.csv_kinds import values_of

        for column, values in values_of(path, self._reading).items():
            if column in self._columns:
                self._columns[column].merge(values)
            else:
                self._columns[column] = values

    def told(self) -> Told:
        """What the columns of the files so far are."""
        return Told([values.told(column) for column, values in self._columns.items()])
