"""Sources read files as segments of rows. Each segment is sent in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from milepost.importing.settings import Shaping
from milepost.v1.catalog_service_pb2 import ValueKind

SEGMENT_ROWS = 1 << 20
"""Maximum rows in one call: as many as an answer can name if all are refused."""
SEGMENT_BYTES = 128 * 1024 * 1024
"""Approximate maximum memory of a segment. Segments of wide rows have fewer rows."""
BATCHES_PER_SEGMENT = 8
BATCH_BYTES_MAX = 32 * 1024 * 1024
"""Maximum memory of a record batch; below what a service takes by default."""
ROW_BYTES_MAX = 16 * 1024 * 1024
"""A row with more is set aside: no service takes its values, and it would fill a batch."""
NOT_UTF8 = "is not UTF-8"
ROW_TOO_LONG = f"is longer than {ROW_BYTES_MAX:,} bytes"


@dataclass(frozen=True)
class Malformed:
    """A row that cannot be read and is not sent. `row` is its number in the file, from 0."""

    row: int
    field: str
    description: str
    data: object


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of a file: `rows` of them from `first_row` on.

    `batches` are the rows to send. `places` are their positions within the segment, None = all rows are sent.
    `kinds` are the kinds of attributes found in the file.
    """

    first_row: int
    rows: int
    batches: Sequence[Any]
    kinds: Mapping[str, ValueKind.ValueType] = field(default_factory=dict)
    malformed: Sequence[Malformed] = ()
    places: Sequence[int] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """The number of values by column that were left out, because no attribute can hold them."""

    def row_of(self, place: int) -> int:
        """The number in the file of a row that was sent."""
        return self.first_row + (place if self.places is None else self.places[place])


class Source(Protocol):
    """A file open for reading."""

    rows: int | None
    """Rows in the file; None if counting them takes reading it."""
    columns: Sequence[str] | None
    """The columns known before the file is read; None if none are."""
    has_all_columns: bool
    """Whether `columns` are all columns of the file."""
    shaping: Shaping
    """What the options did to what was read so far: to all of the file, if all columns are known."""

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """The segments from `first_row` on, where a segment starts. They are the same in each run.
        `malformed` counts the malformed rows of the segments before. Raises CannotImport.
        """
        ...


def rows_per_segment(row_bytes: float, rows_max: int) -> int:
    """Rows in a segment, if each takes `row_bytes`."""
    return max(1, min(rows_max, int(SEGMENT_BYTES / max(1.0, row_bytes))))


def cut(batches: Iterator[Any], segment_rows: int) -> Iterator[list[Any]]:
    """Record batches as segments of exactly `segment_rows` rows (the last has the rest), each in batches of
    equal length.

    The cuts depend only on the rows, so that the service recognises a segment that is sent again.
    """
    import pyarrow as pa

    held: list[Any] = []
    held_rows = 0
    batch_rows = max(1, segment_rows // BATCHES_PER_SEGMENT)
    for batch in batches:
        while held_rows + batch.num_rows >= segment_rows:
            taken = segment_rows - held_rows
            held.append(batch.slice(0, taken))
            batch = batch.slice(taken)
            yield _even(pa, held, batch_rows)
            held, held_rows = [], 0
        if batch.num_rows:
            held.append(batch)
            held_rows += batch.num_rows
    if held:
        yield _even(pa, held, batch_rows)


def _even(pa: Any, batches: list[Any], batch_rows: int) -> list[Any]:
    joined = pa.concat_batches(batches)
    return within_bytes([joined.slice(start, batch_rows) for start in range(0, joined.num_rows, batch_rows)])


def within_bytes(batches: Sequence[Any]) -> list[Any]:
    """The same rows in batches of at most `BATCH_BYTES_MAX`, apart from single rows. The batches have one
    schema, which may change to types that are smaller in parts.
    """
    if all(batch.nbytes <= BATCH_BYTES_MAX for batch in batches):
        return list(batches)
    return [piece for batch in batches for piece in _halved(divisible(batch))]


def divisible(batch: Any) -> Any:
    """A batch without dictionaries and views: each of their parts would hold all values."""
    import pyarrow as pa

    for place, column in enumerate(batch.columns):
        if pa.types.is_dictionary(column.type):
            plain = column.dictionary_decode()
        elif pa.types.is_string_view(column.type):
            plain = column.cast(pa.large_string())
        else:
            continue
        batch = batch.set_column(place, batch.schema.field(place).with_type(plain.type), plain)
    return batch


def _halved(batch: Any) -> Iterator[Any]:
    if batch.nbytes <= BATCH_BYTES_MAX or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    yield from _halved(batch.slice(0, half))
    yield from _halved(batch.slice(half))


def without_first(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """The batches without their first `rows` rows."""
    for batch in batches:
        skipped = min(rows, batch.num_rows)
        rows -= skipped
        if skipped < batch.num_rows:
            yield batch.slice(skipped)
