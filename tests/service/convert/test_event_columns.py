"""Reading a batch by column gives the same events and rejections as reading it event by event."""

from __future__ import annotations

import math

import msgspec
import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from engine.backends.base import EventRecord
from engine.checks import Fault, Times, check_columns, check_event
from engine.criteria.model import EventType
from engine.event_columns import EventColumns
from engine.ingest import Rejection
from engine.limits import Limits
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Value
from milepost.v1 import data_pb2
from service.convert.data import event_records
from service.convert.event_columns import event_columns
from service.convert.values import fill_value

NOW = 1_790_812_800_000_000
LIMITS = Limits(event_attributes_max=2, name_bytes_max=8, string_bytes_max=6, list_items_max=2)
INPUTS = ("web", "app", "", "unknown")

texts = st.sampled_from(["", "a", "b", "äöü", "seven77", "much too long", "1"])
numbers = st.sampled_from([0.0, -0.0, 1.0, 0.1, -2.5, 1e300, math.inf, math.nan])
times = st.sampled_from(
    [0, NOW, NOW - MICROS_PER_DAY, NOW + 3 * MICROS_PER_DAY, TIME_MIN_MICROS, TIME_MAX_MICROS]
)
values = st.one_of(texts, numbers, st.booleans(), times, st.lists(texts, max_size=3).map(tuple))


@st.composite
def events(draw: st.DrawFn) -> data_pb2.Event:
    """An event, often with a fault."""
    message = data_pb2.Event(
        user_id=draw(texts), input=draw(st.sampled_from(INPUTS)), name=draw(texts), event_id=draw(texts)
    )
    message.event_type = draw(st.sampled_from([0, 1, 3, 5, 9]))  # type: ignore[assignment]
    if draw(st.integers(0, 5)):
        message.time.FromMicroseconds(draw(times))
    if not draw(st.integers(0, 9)):
        message.time.nanos = -1
    for name in draw(st.lists(st.sampled_from(["x", "y", "", "a long name"]), max_size=4, unique=True)):
        fill_value(message.attributes[name], draw(values))
    if not draw(st.integers(0, 9)):
        message.attributes["x"].Clear()
    return message


def two_faulty_attributes() -> data_pb2.Event:
    message = data_pb2.Event(user_id="a", input="web", name="a")
    message.time.FromMicroseconds(NOW)
    fill_value(message.attributes[""], 0.0)
    fill_value(message.attributes["a long name"], "")
    return message


def input_fault(name: str) -> Fault | None:
    return None if name in ("web", "app") else ("UNKNOWN_INPUT", "input", f"input {name!r} does not exist")


def by_event(record: EventRecord, retention: int) -> Fault | None:
    return check_event(record, Times.by_clock((NOW, NOW), retention), LIMITS) or input_fault(record.input)


def first_faults(record: EventRecord, retention: int) -> set[Fault | None]:
    """What may be told of a record: a map has no order, so of several attributes with faults any one."""
    fault = by_event(record, retention)
    if (
        fault is None
        or not fault[1].startswith("attributes")
        or len(record.attributes) > LIMITS.event_attributes_max
    ):
        return {fault}
    alone = (
        by_event(msgspec.structs.replace(record, attributes={name: value}), retention)
        for name, value in record.attributes.items()
    )
    return {fault for fault in alone if fault is not None and fault[1].startswith("attributes")}


def records_of(columns: EventColumns) -> list[EventRecord]:
    """The rows of columns as records; of an attribute the values of all kinds."""
    attributes: list[dict[str, Value]] = [{} for _ in range(len(columns))]
    for column in columns.attributes:
        rows = range(len(columns)) if column.rows is None else column.rows.tolist()
        found: list[Value] = column.data.tolist()
        if column.kind not in (Kind.NUMBER, Kind.TIME):
            found = [column.entries[code] for code in column.data.tolist()]
        for row, value in zip(rows, found, strict=True):
            assert column.name not in attributes[row]
            attributes[row][column.name] = value
    texts = [[c.entries[code] for code in c.codes] for c in (columns.user_ids, columns.inputs, columns.names)]
    ids = columns.event_ids or [""] * len(columns)
    rows_ = zip(
        *texts, map(EventType, columns.types.tolist()), columns.times.tolist(), attributes, ids, strict=True
    )
    return [EventRecord(*row) for row in rows_]


def told(record: EventRecord) -> str:
    """For comparing: NaN is itself, and 0.0 is not False."""
    return repr(
        (*(getattr(record, name) for name in record.__struct_fields__ if name != "attributes"),)
    ) + repr(sorted(record.attributes.items()))


@given(messages=st.lists(events(), max_size=12), retention=st.sampled_from([0, MICROS_PER_DAY]))
@example(messages=[two_faulty_attributes()], retention=0)
def test_columns_give_the_same_rows_and_rejections(messages: list[data_pb2.Event], retention: int) -> None:
    rows = event_records(messages, "web")
    batch = event_columns(messages, "web")

    records = {place: row for place, row in enumerate(rows) if isinstance(row, EventRecord)}
    assert list(batch.places) == list(records)
    assert [told(record) for record in records_of(batch.columns)] == [told(r) for r in records.values()]
    assert list(batch.rejections) == [row for row in rows if isinstance(row, Rejection)]

    faults = check_columns(batch.columns, Times.by_clock((NOW, NOW), retention), LIMITS, input_fault)
    by_column = {
        batch.places[row]: (fault.reason, fault.field, fault.description)
        for fault in faults
        for row in fault.rows.tolist()
    }
    assert sum(len(fault.rows) for fault in faults) == len(by_column)
    expected = {place: by_event(record, retention) for place, record in records.items()}
    assert by_column.keys() == {place for place, fault in expected.items() if fault is not None}
    for place, fault in by_column.items():
        assert fault in first_faults(records[place], retention)

    kept = [row for row, place in enumerate(batch.places) if place not in by_column]
    taken = batch.columns.take(np.array(kept, np.int64))
    assert [told(r) for r in records_of(taken)] == [
        told(record) for place, record in records.items() if place not in by_column
    ]
