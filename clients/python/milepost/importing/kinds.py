"""The kinds of CSV columns, found over all files of a run before a row is sent.

A column has a kind if all its values in all files have it. Otherwise it is a column of strings, and
`ColumnKind` names the first value that differs. So no row is rejected because an unusual value came late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from milepost.kinds import KIND_NAMES, is_not_a
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    ValueKind,
)

_FOUND_KINDS = (VALUE_KIND_BOOL, VALUE_KIND_NUMBER, VALUE_KIND_TIME)
VALUES_MIN = 1_000
"""With fewer values, every kind stays plausible: the first ones may be the exceptions."""
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Misfit:
    """A value of another kind than most values of its column. `row` counts from 0."""

    file: Path
    row: int
    value: str

    @property
    def is_short(self) -> bool:
        """Whether a message shows all of the value."""
        return len(self.value) <= _SHOWN_CHARACTERS

    @property
    def shown(self) -> str:
        """The value in quotes; only the start of a long one."""
        if self.is_short:
            return repr(self.value)
        return f"{self.value[:_SHOWN_CHARACTERS]!r}... ({len(self.value):,} characters)"


@dataclass(frozen=True)
class ColumnKind:
    """The kind of a column. If it is strings although at least half of its values have another kind, `almost`
    is that kind, `fitting` of `values` have it, and `misfit` is the first that does not. Empty values do
    not count.
    """

    column: str
    kind: ValueKind.ValueType
    values: int
    almost: ValueKind.ValueType | None = None
    fitting: int = 0
    misfit: Misfit | None = None

    def __str__(self) -> str:
        """For example "amount: string, because 'NA' (e.csv, row 17) is not a number; 9 of 10 are"."""
        if self.misfit is None or self.almost is None:
            return f"{self.column}: {KIND_NAMES[self.kind]}"
        where = f"{self.misfit.file.name}, row {self.misfit.row}"
        return (
            f"{self.column}: {KIND_NAMES[self.kind]}, because {self.misfit.shown} ({where})"
            f" {is_not_a(self.almost)}; {self.fitting:,} of {self.values:,} are"
        )


@dataclass(frozen=True)
class ColumnKinds:
    """The kinds of the columns of all files, in order of appearance."""

    columns: Sequence[ColumnKind] = ()

    @property
    def by_column(self) -> Mapping[str, ValueKind.ValueType]:
        """The kind of each column, for `Reading.found_kinds`."""
        return {each.column: each.kind for each in self.columns}

    @property
    def doubtful(self) -> Sequence[ColumnKind]:
        """The columns that are strings because of some of their values."""
        return [each for each in self.columns if each.misfit is not None]


@dataclass
class Values:
    """How many values of a column have each kind."""

    values: int = 0
    fitting: dict[ValueKind.ValueType, int] = field(default_factory=lambda: dict.fromkeys(_FOUND_KINDS, 0))
    misfits: dict[ValueKind.ValueType, Misfit] = field(default_factory=dict)

    @property
    def plausible(self) -> Sequence[ValueKind.ValueType]:
        """The kinds of at least half of the values; all kinds while there are few values."""
        return [kind for kind in self.fitting if self._is_of(kind) or self.values < VALUES_MIN]

    def _is_of(self, kind: ValueKind.ValueType) -> bool:
        return 2 * self.fitting[kind] >= self.values

    def merge(self, other: Values) -> None:
        """Adds the values of another file."""
        self.values += other.values
        self.fitting = {kind: count + other.fitting[kind] for kind, count in self.fitting.items()}
        self.misfits = {**other.misfits, **self.misfits}

    def found(self, column: str) -> ColumnKind:
        """The kind of the column."""
        kind = max(self.fitting, key=lambda each: self.fitting[each])
        if not self.values or not self._is_of(kind):
            return ColumnKind(column, VALUE_KIND_STRING, self.values)
        fitting = self.fitting[kind]
        if fitting == self.values:
            return ColumnKind(column, kind, self.values)
        return ColumnKind(column, VALUE_KIND_STRING, self.values, kind, fitting, self.misfits[kind])
