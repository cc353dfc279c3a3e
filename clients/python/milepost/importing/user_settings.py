"""The meaning of the columns of a file of users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milepost._importing import Imported, RowsSent
from milepost.client import Client
from milepost.importing.settings import (
    TIME,
    Kinds,
    Reading,
    Settings,
)
from milepost.v1.ingest_service_pb2 import ImportUsersHeader


@dataclass(frozen=True)
class Consent:
    """A column that says whether users gave their consent to a purpose under a regulation."""

    column: str
    regulation: str
    purpose: str

    def __str__(self) -> str:
        return f"{self.column}:{self.regulation}/{self.purpose}"


@dataclass(frozen=True, kw_only=True)
class UserSettings(Reading):
    """The meaning of columns of user updates, as in `ImportUsersHeader`. The time column may be missing."""

    identities: Mapping[str, str] = field(default_factory=dict)
    """Identity columns and their types."""
    consents: tuple[Consent, ...] = ()
    given: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    """Values that mean given or denied. Empty = the defaults of the service: given, true; denied, false."""
    unset_nulls: bool = False
    """Unset the attribute or identity of a row without a value."""

    rows_are = "users"
    event_id_column = ""
    """Users have no event ids. A row sent again writes the same values again."""
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

    def named_columns(self, *, only_needed: bool) -> Iterator[tuple[str, str]]:
        """See `Reading`."""
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
        """The header for a stream with these columns. `found` are the kinds found in the file."""
        header = ImportUsersHeader(
            time_column=self.time_column if self.time_column in columns else "", unset_nulls=self.unset_nulls
        )
        self.fill(header, columns, found)
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
