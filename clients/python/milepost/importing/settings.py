"""What the columns of a file mean, and how the file is read."""

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
from milepost.v1.ingest_service_pb2 import TIME_UNIT_MICROSECONDS, ImportHeader, TimeUnit

USER_ID = "user_id"
NAME = "name"
TIME = "time"
EVENT_ID = "event_id"

Kinds = Mapping[str, ValueKind.ValueType]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the files of an import are read, whatever their rows stand for.

    A subclass says which columns are not attributes. Readers ask for nothing else.
    """

    kinds: Kinds = field(default_factory=dict)
    """Kinds that the caller gives: a value that is not of its column's kind rejects its row."""
    told: Kinds | None = None
    """Kinds of columns of CSV files, found over all files of a run by `KindTeller`. None = each by itself."""
    time_unit: TimeUnit.ValueType = TIME_UNIT_MICROSECONDS
    time_format: str = ""
    """A further form of times in texts: see `milepost.time_formats`."""
    decimal_comma: bool = False
    delimiter: str = ""
    """Of CSV files, one character. Empty = a tab for `.tsv`, otherwise a comma."""
    null_values: tuple[str, ...] = ()
    """Texts of CSV files that stand for no value, like `NA`. An empty text always does."""
    exclude: tuple[str, ...] = ()
    """Names of columns to leave out, or patterns of them like `utm_*`. Empty = columns without a name."""
    flatten: tuple[str, ...] = ()
    """Columns that are objects: their members become columns."""
    skip_objects: bool = False
    """Leave out what no attribute can hold, and count it, where it would reject its row."""
    profile: str = ""
    """The profile that these settings were made with."""
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Members of an NDJSON line that stand in for a column's own."""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are not attributes, those of times apart."""
        raise NotImplementedError

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns of times that are not attributes."""
        raise NotImplementedError

    @property
    def bool_columns(self) -> tuple[str, ...]:
        """The `text_columns` that may also hold bools."""
        return ()

    @cached_property
    def own_columns(self) -> frozenset[str]:
        """The columns that are not attributes."""
        return frozenset((*self.text_columns, *self.time_columns))

    def leaves_out(self, column: str) -> bool:
        """Whether a column is not read. One that is not an attribute always is."""
        return column not in self.own_columns and any(fnmatchcase(column, each) for each in self.exclude)

    def kind_of(self, column: str, found: Kinds) -> ValueKind.ValueType | None:
        """The kind to read an attribute as; None = as its own type says."""
        return self.kinds.get(column, found.get(column)) if column not in self.own_columns else None


@dataclass(frozen=True, kw_only=True)
class Settings(Reading):
    """What the columns mean when rows are events: as `ImportHeader`, the input as the client takes it."""

    input: str = ""
    user_id_column: str = USER_ID
    name_column: str = NAME
    time_column: str = TIME
    event_id_column: str = EVENT_ID
    type_column: str = ""
    input_column: str = ""
    default_name: str = ""
    default_type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED
    default_time: str = ""
    """Time of rows without one, in RFC 3339 with an offset. Empty = such rows are rejected."""
    skip_without_user: bool = False
    """Rows without a user id are left out and counted, not rejected."""

    rows_are = "events"
    progress_suffix = ".milepost-import.json"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        named = (self.user_id_column, self.name_column, self.event_id_column)
        optional = (self.type_column, self.input_column)
        return (*named, *(column for column in optional if column))

    @property
    def time_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        return (self.time_column,)

    def named_columns(self, *, only_needed: bool) -> Iterator[tuple[str, str]]:
        """The columns that a file has to have, by the option that names each; all that are named, or only
        those without which no row can be taken.
        """
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
        """The header for a stream with these columns; `found` are kinds that were told from the file."""

        def present(column: str, has_default: object) -> str:
            return column if column in columns or not has_default else ""

        header = ImportHeader(
            user_id_column=self.user_id_column,
            name_column=present(self.name_column, self.default_name),
            time_column=present(self.time_column, self.default_time),
            event_id_column=present(self.event_id_column, True),
            type_column=self.type_column,
            input_column=self.input_column,
            default_name=self.default_name,
            default_type=self.default_type,
            time_unit=self.time_unit,
            decimal_comma=self.decimal_comma,
            time_format=self.time_format,
        )
        if self.default_time:
            header.default_time.FromJsonString(self.default_time)
        for column in columns:
            kind = self.kind_of(column, found)
            if kind is not None:
                header.attribute_kinds[column] = kind
        return header
