"""What the columns of a file of users mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milepost._importing import Imported, RowsSent
from milepost.client import Client
from milepost.importing.settings import TIME, USER_ID, Kinds, Reading, Settings
from milepost.v1.ingest_service_pb2 import ImportUsersHeader


@dataclass(frozen=True)
class Consent:
    """A column of consents: whether users gave the consent to a purpose under a regulation."""

    column: str
    regulation: str
    purpose: str

    def __str__(self) -> str:
        return f"{self.column}:{self.regulation}/{self.purpose}"


@dataclass(frozen=True, kw_only=True)
class UserSettings(Reading):
    """What the columns mean when rows are user updates: as `ImportUsersHeader`, the input as the client takes
    it.
    """

    input: str = ""
    user_id_column: str = USER_ID
    time_column: str = TIME
    """May be missing while it has this name."""
    input_column: str = ""
    default_time: str = ""
    """Time of rows without one, in RFC 3339 with an offset. Empty = when the service takes them."""
    identities: Mapping[str, str] = field(default_factory=dict)
    """Columns of identities, and their types."""
    consents: tuple[Consent, ...] = ()
    given: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    """Values that mean given or denied. Empty = those that the service takes: given, true; denied, false."""
    unset_nulls: bool = False
    """A row without a value for an attribute or identity unsets it."""
    skip_without_user: bool = False
    """Rows without a user id are left out and counted, not rejected."""

    rows_are = "users"
    event_id_column = ""
    """Users have none; a row that is sent again writes what it wrote before."""
    progress_suffix = ".milepost-import-users.json"

    @property
    def text_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        consents = (consent.column for consent in self.consents)
        optional = (self.input_column,) if self.input_column else ()
        return tuple(dict.fromkeys((self.user_id_column, *optional, *self.identities, *consents)))

    @property
    def bool_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        return tuple(consent.column for consent in self.consents)

    @property
    def time_columns(self) -> tuple[str, ...]:
        """See `Reading`."""
        return (self.time_column,)

    def named_columns(self, *, only_needed: bool) -> Iterator[tuple[str, str]]:
        """The columns that a file has to have, by the option that names each; all that are named, or only
        those without which no row can be taken.
        """
        yield "--user-id-column", self.user_id_column
        if only_needed:
            return
        if self.time_column != TIME:
            yield "--time-column", self.time_column
        if self.input_column:
            yield "--input-column", self.input_column
        for column in self.identities:
            yield "--identity", column
        for consent in self.consents:
            yield "--consent", consent.column

    def header(self, columns: Sequence[str], found: Kinds) -> ImportUsersHeader:
        """The header for a stream with these columns; `found` are kinds that were told from the file."""
        header = ImportUsersHeader(
            user_id_column=self.user_id_column,
            time_column=self.time_column if self.time_column in columns else "",
            input_column=self.input_column,
            time_unit=self.time_unit,
            decimal_comma=self.decimal_comma,
            time_format=self.time_format,
            unset_nulls=self.unset_nulls,
        )
        if self.default_time:
            header.default_time.FromJsonString(self.default_time)
        for column, identity in self.identities.items():
            header.identity_columns[column] = identity
        for consent in self.consents:
            header.consent_columns.add(
                column=consent.column,
                regulation=consent.regulation,
                purpose=consent.purpose,
                given_values=self.given,
                denied_values=self.denied,
            )
        for column in columns:
            kind = self.kind_of(column, found)
            if kind is not None:
                header.attribute_kinds[column] = kind
        return header

    def send(
        self, client: Client, batches: Sequence[Any], found: Kinds, request_id: str, rows_sent: RowsSent
    ) -> Imported:
        """Sends record batches in one call."""
        header = self.header(batches[0].schema.names, found)
        return client.import_users(
            batches, input=self.input, columns=header, request_id=request_id, rows_sent=rows_sent
        )


AnySettings = Settings | UserSettings
