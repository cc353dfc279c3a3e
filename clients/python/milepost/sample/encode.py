"""Tables of events to batches on the wire, at about a million events a second.

Making a message for each of 1.46 M events would take a good part of the time the service takes to store them.
Instead each distinct value of a column is serialised once, as an `Event` that has only that field, and the
pieces of a row are joined: by protobuf's rules the concatenation of serialised messages is the serialised
merge of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from milepost.sample.dataset import EVENT_ID, TIME, USER_ID, Events
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest
from milepost.v1.value_pb2 import Value

CHUNK_ROWS = 100_000
"""Rows encoded at a time; a multiple of the rows of a batch."""

_WIRE_LENGTH_DELIMITED = 2
_VARINT_BITS = 7
_NANOSECONDS_A_SECOND = 1_000_000_000

Field = Callable[[Any], Event]


def batches(source: Events, batch_rows: int) -> Iterator[bytes]:
    """The `events` of one `IngestEventsRequest` after another, serialised, `batch_rows` in each but the last.

    Prepend the other fields of the request, serialised: see `request`.
    """
    for start in range(0, source.table.num_rows, CHUNK_ROWS):
        rows = _encoded(source, source.table.slice(start, CHUNK_ROWS))
        for first in range(0, len(rows), batch_rows):
            yield _bytes_of(rows.slice(first, batch_rows))


def request(parent: str, input: str, request_id: str, events: bytes) -> bytes:
    """A serialised `IngestEventsRequest` around serialised events."""
    head = IngestEventsRequest(parent=parent, input=input, request_id=request_id)
    return head.SerializeToString() + events


def _encoded(source: Events, table: Any) -> Any:
    """An array with each row as an entry of `IngestEventsRequest.events`: tag, length, event."""
    import pyarrow as pa
    import pyarrow.compute

    fixed = Event(name=source.name, type=source.type).SerializeToString()
    pieces = [_pieces(table.column(name), _field(name)) for name in table.column_names if name != EVENT_ID]
    # Ids are all distinct: the few different lengths are encoded, and the text goes behind them as it is.
    texts = table.column(EVENT_ID).combine_chunks().cast("binary")
    pieces += [_prefixes(texts, Event.EVENT_ID_FIELD_NUMBER), texts]
    empty = pa.scalar(b"", pa.binary())
    joined = pyarrow.compute.binary_join_element_wise(pa.scalar(fixed, pa.binary()), *pieces, empty)
    prefixes = _prefixes(joined, IngestEventsRequest.EVENTS_FIELD_NUMBER)
    return pyarrow.compute.binary_join_element_wise(prefixes, joined, empty)


def _field(column: str) -> Field:
    """How a value of the column is put into an event."""
    if column == USER_ID:
        return lambda value: Event(user_id=value)
    if column == TIME:
        return lambda nanoseconds: Event(time=_timestamp(nanoseconds))
    return lambda value: Event(attributes={column: _value(value)})


def _timestamp(nanoseconds: int) -> Timestamp:
    seconds, nanos = divmod(nanoseconds, _NANOSECONDS_A_SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def _value(plain: str | float) -> Value:
    return Value(string_value=plain) if isinstance(plain, str) else Value(number_value=plain)


def _pieces(column: Any, field: Field) -> Any:
    """Each value serialised as the field; nothing for null."""
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast("timestamp[ns]").cast("int64")
    coded = column.combine_chunks().dictionary_encode()
    distinct = [field(value).SerializeToString() for value in coded.dictionary.to_pylist()]
    return pa.array(distinct, pa.binary()).take(coded.indices).fill_null(b"")


def _prefixes(payloads: Any, field_number: int) -> Any:
    """Tag and length before each payload."""
    import pyarrow as pa
    import pyarrow.compute

    coded = pyarrow.compute.binary_length(payloads).dictionary_encode()
    tag = _varint(field_number << 3 | _WIRE_LENGTH_DELIMITED)
    distinct = [tag + _varint(length) for length in coded.dictionary.to_pylist()]
    return pa.array(distinct, pa.binary()).take(coded.indices)


def _varint(number: int) -> bytes:
    groups = []
    while number >= 1 << _VARINT_BITS:
        groups.append(number & 0x7F | 0x80)
        number >>= _VARINT_BITS
    return bytes([*groups, number])


def _bytes_of(rows: Any) -> bytes:
    """The payloads of a binary array one after another, as they lie in its buffer."""
    _, offsets, payloads = rows.buffers()
    ends = memoryview(offsets).cast("i")
    return bytes(payloads[ends[rows.offset] : ends[rows.offset + len(rows)]])
