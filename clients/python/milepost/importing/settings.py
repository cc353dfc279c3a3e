"""What the columns of a file mean, as whoever imports it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from milepost.v1.catalog_service_pb2 import ValueKind
from milepost.v1.data_pb2 import EVENT_TYPE_UNSPECIFIED, EventType
from milepost.v1.ingest_service_pb2 import TIME_UNIT_MICROSECONDS, ImportHeader, TimeUnit

USER_ID = "user_id"
NAME = "name"
TIME = "time"
EVENT_ID = "event_id"


@dataclass(frozen=True)
class Settings:
    """As `ImportHeader`, the input as the client takes it. `kinds`: attributes to read as another kind.
    `skip_without_user`: rows without a user id are left out and counted, not rejected.
    """

    input: str = ""
    user_id_column: str = USER_ID
    name_column: str = NAME
    time_column: str = TIME
    event_id_column: str = EVENT_ID
    type_column: str = ""
    input_column: str = ""
    default_name: str = ""
    default_type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED
    time_unit: TimeUnit.ValueType = TIME_UNIT_MICROSECONDS
    kinds: Mapping[str, ValueKind.ValueType] = field(default_factory=dict)
    skip_without_user: bool = False

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that are not attributes, the time's apart."""
        named = (self.user_id_column, self.name_column, self.event_id_column)
        optional = (self.type_column, self.input_column)
        return (*named, *(column for column in optional if column))

    def header(self, columns: Sequence[str], found: Mapping[str, ValueKind.ValueType]) -> ImportHeader:
        """The header for a stream with these columns; `found` are kinds that were told from the file."""
        header = ImportHeader(
            user_id_column=self.user_id_column,
            name_column=self.name_column if self.name_column in columns or not self.default_name else "",
            time_column=self.time_column,
            event_id_column=self.event_id_column if self.event_id_column in columns else "",
            type_column=self.type_column,
            input_column=self.input_column,
            default_name=self.default_name,
            default_type=self.default_type,
            time_unit=self.time_unit,
        )
        own = {*self.text_columns, self.time_column}
        for column, kind in {**found, **self.kinds}.items():
            if column in columns and column not in own:
                header.attribute_kinds[column] = kind
        return header
