"""The meaning of a file's columns, and how the file is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from milepost._importing import Imported, RowsSent
from milepost.client import Client
from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EVENT_TYPE_UNSPECIFIED, EventType
from milepost.v1.ingest_service_pb2 import TIME_UNIT_MICROSECONDS, ImportHeader, ImportUsersHeader, TimeUnit

USER_ID = "user_id"
NAME = "name"
TIME = "time"
EVENT_ID = "event_id"
UNNAMED = ""
"""The name of a column without a name."""
EXCLUDE, FLATTEN = "--exclude", "--flatten"

Kinds = Mapping[str, ValueKind.ValueType]


@dataclass(frozen=True)
class ContractMember:
    """A field of the contract's `Event` or `UserUpdate` whose name an attribute may have too. A value that
    starts with `prefix` belongs to the field, and goes into the column `column`.
    """

    prefix: str
    column: str


TYPE_MEMBER = ContractMember("EVENT_TYPE_", "(event type)")
INPUT_MEMBER = ContractMember("accounts/", "(input)")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How files are read, and the columns of any kind of rows. Subclasses name the others."""

    input: str = ""
    """The input of rows without one, as the client takes it."""
    user_id_column: str = USER_ID
    time_column: str = TIME
    input_column: str = ""
    default_time: str = ""
    """Time of rows without one, in RFC 3339 with an offset. Empty = events are rejected, and user updates get
    the time of the import.
    """
    skip_without_user: bool = False
    """Leave out and count rows without a user id, instead of rejecting them."""
    kinds: Kinds = field(default_factory=dict)
    """Kinds given by the caller: a value of another kind rejects its row."""
    found_kinds: Kinds | None = None
    """Kinds of CSV columns, found by `KindFinder` over all files of a run. None = by each file alone."""
    time_unit: TimeUnit.ValueType = TIME_UNIT_MICROSECONDS
    time_format: str = ""
    """An additional format of times in texts: see `milepost.time_formats`."""
    decimal_comma: bool = False
    delimiter: str = ""
    """Separator in CSV files, one character. Empty = tab for `.tsv`, otherwise comma."""
    null_values: tuple[str, ...] = ()
    """Texts in CSV files that mean no value, like `NA`. An empty text always does."""
    exclude: tuple[str, ...] = ()
    """Columns to leave out, by name or pattern like `utm_*`. An empty text = columns without a name."""
    flatten: tuple[str, ...] = ()
    """Object columns whose members become columns."""
    skip_objects: bool = False
    """Leave out and count values that no attribute can hold, instead of rejecting their rows or the file."""
    profile: str = ""
    """The profile that made these settings."""
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """NDJSON members that stand in for a column that has no value."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are not attributes, without those of times."""
        raise NotImplementedError

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns of times other than attributes."""
        return (self.time_column,)

    @property
    def bool_columns(self) -> tuple[str, ...]:
        """The `text_columns` that may also have bools."""
        return ()

    @property
    def contract_members(self) -> Mapping[str, ContractMember]:
        """NDJSON members that are fields of the contract's message if their value shows it."""
        return {} if self.input_column else {"input": INPUT_MEMBER}

    def named_columns(self, *, only_needed: bool) -> Iterator[tuple[str, str]]:
        """The columns that a file must have, each with the option that names it. `only_needed`: only those
        that every row needs, without others that an option names.
        """
        raise NotImplementedError

    @cached_property
    def own_columns(self) -> frozenset[str]:
        """The columns that are not attributes."""
        return frozenset((*self.text_columns, *self.time_columns))

    def field_of(self, column: str) -> str:
        """What a column is called where its value is at fault."""
        return column if column in self.own_columns else f"attributes[{column!r}]"

    def leaving_out(self, column: str) -> list[str]:
        """What in `exclude` leaves the column out: nothing for a column that is not an attribute."""
        if column in self.own_columns:
            return []
        return [each for each in self.exclude if fnmatchcase(column, each)]

    def kind_of(self, column: str, found: Kinds) -> ValueKind.ValueType | None:
        """The kind to read an attribute as; None = that of its type."""
        return self.kinds.get(column, found.get(column)) if column not in self.own_columns else None

    def fill(self, header: ImportHeader | ImportUsersHeader, columns: Sequence[str], found: Kinds) -> None:
        """Sets what the headers of all rows have, for a stream with these columns."""
        header.user_id_column = self.user_id_column
        header.input_column = self.input_column or named(INPUT_MEMBER, columns)
        header.time_unit = self.time_unit
        header.decimal_comma = self.decimal_comma
        header.time_format = self.time_format
        if self.default_time:
            header.default_time.FromJsonString(self.default_time)
        for column in columns:
            kind = self.kind_of(column, found)
            if kind is not None:
                header.attribute_kinds[column] = kind


class Shaping:
    """Which columns of a file are left out, and which options did something to it so far."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.used: set[tuple[str, str]] = set()
        """The options, each with the pattern or column that it names."""

    def leaves_out(self, column: str) -> bool:
        """Whether a column is left out."""
        patterns = self._reading.leaving_out(column)
        self.used.update((EXCLUDE, pattern) for pattern in patterns)
        return bool(patterns)

    def flattens(self, path: str) -> None:
        """Called when members of an object become columns."""
        self.used.add((FLATTEN, path))


def named(member: ContractMember, columns: Sequence[str]) -> str:
    """The column of a contract's field; empty if a stream does not have it."""
    return member.column if member.column in columns else ""


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """The meaning of columns of events, as in `ImportHeader`."""

    name_column: str = NAME
    event_id_column: str = EVENT_ID
    type_column: str = ""
    default_name: str = ""
    default_type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED

    rows_are = "events"
    progress_suffix = ".milepost-import.json"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        named = (self.user_id_column, self.name_column, self.event_id_column)
        optional = (self.type_column, self.input_column)
        return (*named, *(column for column in optional if column))

    @property
    def contract_members(self) -> Mapping[str, ContractMember]:
        """See `Reading`."""
        return {**super().contract_members, **({} if self.type_column else {"type": TYPE_MEMBER})}

    def named_columns(self, *, only_needed: bool) -> Iterator[tuple[str, str]]:
        """See `Reading`."""
        yield "--user-id-column", self.user_id_column
        if self.time_column not in self.fallbacks and (not self.default_time or self.time_column != TIME):
            yield "--time-column", self.time_column
        if self.name_column not in self.fallbacks and (not self.default_name or self.name_column != NAME):
            yield "--name-column", self.name_column
        if only_needed:
            return
        if self.event_id_column != EVENT_ID:
            yield "--event-id-column", self.event_id_column
        if self.type_column:
            yield "--type-column", self.type_column
        if self.input_column:
            yield "--input-column", self.input_column

    def send(
        self, client: Client, batches: Sequence[Any], found: Kinds, request_id: str, rows_sent: RowsSent
    ) -> Imported:
        """Sends record batches in one call."""
        header = self.header(batches[0].schema.names, found)
        return client.import_events(
            batches, input=self.input, columns=header, request_id=request_id, rows_sent=rows_sent
        )

    def header(self, columns: Sequence[str], found: Kinds) -> ImportHeader:
        """The header for a stream with these columns. `found` are the kinds found in the file."""

        def present(column: str, has_default: object) -> str:
            return column if column in columns or not has_default else ""

        header = ImportHeader(
            name_column=present(self.name_column, self.default_name),
            time_column=present(self.time_column, self.default_time),
            event_id_column=present(self.event_id_column, True),
            type_column=self.type_column or named(TYPE_MEMBER, columns),
            default_name=self.default_name,
            default_type=self.default_type,
        )
        self.fill(header, columns, found)
        return header
