"""A file of events, read in segments."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from milepost.importing.errors import CannotImport
from milepost.importing.settings import Reading
from milepost.v1.catalog_service_pb2 import ValueKind

SEGMENT_ROWS = 1 << 20
"""Rows sent in one call, at most: as many as an answer names when all of them are refused."""
SEGMENT_BYTES = 128 * 1024 * 1024
"""Segments of wide rows are shorter, so that one takes about this in memory."""
BATCHES_PER_SEGMENT = 8
COMPRESSED_SUFFIX = ".gz"


class Format(enum.StrEnum):
    """How a file is written; AUTO tells by its name."""

    AUTO = "auto"
    PARQUET = "parquet"
    CSV = "csv"
    NDJSON = "ndjson"


SUFFIXES = {
    ".parquet": Format.PARQUET,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
}


@dataclass(frozen=True)
class Malformed:
    """A row that is not sent: it could not be read. `row` is its place in the file."""

    row: int
    field: str
    description: str
    data: object


@dataclass(frozen=True)
class Segment:
    """Some consecutive rows of a file, `rows` of them from `first_row` on.

    `batches` are the rows to send; `places` are their places among the rows of the segment, None when all are
    sent. `kinds` are those of attributes as told from the file.
    """

    first_row: int
    rows: int
    batches: Sequence[Any]
    kinds: Mapping[str, ValueKind.ValueType] = field(default_factory=dict)
    malformed: Sequence[Malformed] = ()
    places: Sequence[int] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many values of each column were left out because no attribute holds them (`skip_objects`)."""

    def row_of(self, place: int) -> int:
        """The place in the file of a row that was sent."""
        return self.first_row + (place if self.places is None else self.places[place])


class Source(Protocol):
    """A file open for reading."""

    rows: int | None
    """Rows in the file; None when that takes reading it."""
    columns: Sequence[str] | None
    """The columns of the file as far as they are known before it is read; None when none are."""
    has_all_columns: bool
    """Whether the file has no others."""

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """The segments from a row on at which one starts, the same in each run. `malformed` are those of the
        segments before. Raises CannotImport.
        """
        ...


def open_source(path: Path, format_: Format, reading: Reading, segment_rows: int) -> Source:
    """The file, ready to be read. Raises CannotImport."""
    if not path.is_file():
        raise CannotImport(f"{path} is no file")
    format_ = told_format(path) if format_ is Format.AUTO else format_
    try:
        if format_ is Format.PARQUET:
            from milepost.importing.parquet import ParquetSource

            return ParquetSource(path, reading, segment_rows)
        if format_ is Format.CSV:
            from milepost.importing.csv import CsvSource

            return CsvSource(path, reading, segment_rows)
        from milepost.importing.ndjson import NdjsonSource

        return NdjsonSource(path, reading, segment_rows)
    except ModuleNotFoundError as error:
        raise CannotImport("importing needs pyarrow: pip install 'milepost[import]'") from error


def told_format(path: Path) -> Format:
    """The format that the file's name tells, `.gz` put aside. Raises CannotImport."""
    name = path.name.lower().removesuffix(COMPRESSED_SUFFIX)
    format_ = SUFFIXES.get(Path(name).suffix)
    if format_ is None:
        raise CannotImport(f"the name {path.name} tells no format: give --format parquet, csv or ndjson")
    return format_


def rows_per_segment(row_bytes: float, rows_max: int) -> int:
    """Rows in a segment when they take so many bytes each."""
    return max(1, min(rows_max, int(SEGMENT_BYTES / max(1.0, row_bytes))))


def cut(batches: Iterator[Any], segment_rows: int) -> Iterator[list[Any]]:
    """Record batches as segments of exactly so many rows but for the last, each in batches of equal length.

    However the rows came, a segment is cut in the same way: by that the service recognises one sent again.
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
    return [joined.slice(start, batch_rows) for start in range(0, joined.num_rows, batch_rows)]


def without_first(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """The batches without their first `rows` rows."""
    for batch in batches:
        skipped = min(rows, batch.num_rows)
        rows -= skipped
        if skipped < batch.num_rows:
            yield batch.slice(skipped)
