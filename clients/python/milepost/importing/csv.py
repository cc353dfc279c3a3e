"""CSV files, with a header line. Every value is read as a string; what it is else, the service is told.

So a value that is not what its column says refuses its row, and nothing more. The kinds of attributes are
those that pyarrow tells from the first block of the file, where nobody says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from milepost.importing.errors import CannotImport
from milepost.importing.settings import Settings
from milepost.importing.source import Malformed, Segment, cut, rows_per_segment, without_first
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_NUMBER,
    VALUE_KIND_TIME,
    ValueKind,
)

BLOCK_BYTES = 4 * 1024 * 1024
NO_VALUE = ""


class CsvSource:
    """The rows of a CSV file. Lines that do not have the header's columns are set aside; they do not count as
    rows, and their places are not known.
    """

    rows: int | None = None

    def __init__(self, path: Path, settings: Settings, segment_rows: int) -> None:
        self._path = path
        first = self._first_block()
        repeated = {name for name in first.schema.names if first.schema.names.count(name) > 1}
        if repeated:
            raise CannotImport(f"{path} has more than one column {sorted(repeated)[0]!r}")
        self._columns = first.schema.names
        own = {*settings.text_columns, settings.time_column}
        self._kinds = {
            field.name: kind
            for field in first.schema
            if field.name not in own and (kind := _kind_of(field.type)) is not None
        }
        self._segment_rows = rows_per_segment(BLOCK_BYTES / max(1, first.num_rows), segment_rows)

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`. Lines are set aside in the order of the file, but while it is read ahead: they come
        with the segment of their own rows or with one before.
        """
        aside: list[Malformed] = []
        for batches in cut(without_first(self._batches(aside), first_row), self._segment_rows):
            rows = sum(batch.num_rows for batch in batches)
            yield Segment(first_row, rows, batches, self._kinds, aside[malformed:])
            first_row += rows
            malformed = max(malformed, len(aside))
        if aside[malformed:]:
            yield Segment(first_row, 0, (), self._kinds, aside[malformed:])

    def _first_block(self) -> Any:
        """The first block with the types that pyarrow tells."""
        try:
            with self._open(None, []) as reader:
                for batch in reader:
                    return batch
                return reader.schema.empty_table()
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{self._path} is no CSV file with a header: {error}") from error

    def _batches(self, aside: list[Malformed]) -> Iterator[Any]:
        try:
            with self._open(dict.fromkeys(self._columns, pa.string()), aside) as reader:
                yield from reader
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{self._path} cannot be read on: {error}") from error

    def _open(self, types: dict[str, Any] | None, aside: list[Malformed]) -> Any:
        """A reader of record batches that adds the lines it leaves out to `aside`."""

        def set_aside(row: Any) -> str:
            described = f"has {row.actual_columns} columns; {row.expected_columns} are expected"
            aside.append(Malformed(None, "", described, row.text))
            return "skip"

        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            null_values=[NO_VALUE],
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside)
        # Compressed files are told by their names.
        source = pa.input_stream(self._path)
        return pyarrow.csv.open_csv(source, pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES), parse, convert)


def _kind_of(type_: Any) -> ValueKind.ValueType | None:
    """The kind that strings of a column should be read as; None = strings."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return VALUE_KIND_NUMBER
    if pa.types.is_boolean(type_):
        return VALUE_KIND_BOOL
    return VALUE_KIND_TIME if pa.types.is_timestamp(type_) or pa.types.is_date(type_) else None
