"""What a service makes of a file: the reader, the service's conversion and the checks, in one process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checks import check_columns
from engine.checks.rows import Times
from engine.event_columns import EventColumns
from engine.limits import Limits
from engine.values import Kind, Value
from milepost.importing import Format, Settings
from milepost.importing.formats import open_source
from milepost.importing.source import SEGMENT_ROWS
from service.arrow.columns import convert
from service.arrow.layout import layout_of

LATEST = 1 << 62
CODED = (Kind.STRING, Kind.BOOL, Kind.LIST)


@dataclass
class Stored:
    """By the row's place in the file: its event, or the field and why it is rejected."""

    events: dict[int, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[int, tuple[str, str]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    types: dict[int, int] = field(default_factory=dict)
    inputs: dict[int, str] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        """The attribute of each row in order: (kind, value), None, or "rejected"."""
        count = len(self.events) + len(self.rejected)
        return [self.events[row].get(name) if row in self.events else "rejected" for row in range(count)]


def stored(path: Path, settings: Settings | None = None, segment_rows: int = SEGMENT_ROWS) -> Stored:
    """Reads all of a file."""
    settings = settings or Settings()
    found = Stored()
    for segment in open_source(path, Format.AUTO, settings, segment_rows).segments(0, 0):
        for each in segment.malformed:
            found.rejected[each.row] = each.field, each.description
        for name, count in segment.left_out.items():
            found.left_out[name] = found.left_out.get(name, 0) + count
        first = 0
        for batch in segment.batches:
            layout = layout_of(settings.header(batch.schema.names, segment.kinds), batch.schema.names)
            made = convert(batch, layout)
            places = range(batch.num_rows) if made.rows is None else made.rows.tolist()
            rows = [segment.row_of(first + place) for place in places]
            for fault in made.faults:
                for place in fault.rows.tolist():
                    found.rejected[segment.row_of(first + place)] = fault.field, fault.description
            _check(made.columns, rows, found)
            first += batch.num_rows
    return found


def _check(columns: EventColumns, rows: list[int], found: Stored) -> None:
    events = _events(columns)
    for fault in check_columns(columns, Times(None, LATEST), Limits(), lambda _: None):
        for place in fault.rows.tolist():
            found.rejected[rows[place]] = fault.field, fault.description
    inputs = columns.inputs
    for place, (row, event) in enumerate(zip(rows, events, strict=True)):
        if row not in found.rejected:
            found.events[row] = event
            found.types[row] = columns.type_bytes[place]
            found.inputs[row] = inputs.entries[inputs.codes[place]]


def _events(columns: EventColumns) -> list[dict[str, Any]]:
    texts = {"user_id": columns.user_ids, "name": columns.names}
    events: list[dict[str, Any]] = [{"time": time} for time in columns.times.tolist()]
    for name, column in texts.items():
        for event, code in zip(events, column.codes.tolist(), strict=True):
            event[name] = column.entries[code]
    for values in columns.attributes:
        rows = range(len(events)) if values.rows is None else values.rows.tolist()
        for row, item in zip(rows, values.data.tolist(), strict=True):
            value: Value = values.entries[item] if values.kind in CODED else item
            events[row][f"{values.name}"] = values.kind, value
    return events
