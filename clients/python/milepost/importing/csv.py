"""CSV files, with a header line. Every value is sent as a string; what it is else, the service is told.

So a value that is not what its column says refuses its row, and nothing more. The kinds of attributes are
those that pyarrow tells from the first block of the file, where nobody says otherwise.
"""

from __future__ import annotations

import bisect
import io
import uuid
from collections.abc import Iterator, Mapping, Sequence
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
HEADER_AND_ONE = 2
"""Rows are counted from 0 and without the header; the reader counts from 1 and with it."""


class CsvSource:
    """The rows of a CSV file; the header and empty lines are none. Rows that have not the header's columns,
    or are no UTF-8, are set aside with their places.
    """

    rows: int | None = None

    def __init__(self, path: Path, settings: Settings, segment_rows: int) -> None:
        self._path = path
        first = self._first_block()
        repeated = {name for name in first.schema.names if first.schema.names.count(name) > 1}
        if repeated:
            raise CannotImport(f"{path} has more than one column {sorted(repeated)[0]!r}")
        self._columns = first.schema.names
        self.has_all_columns = True
        self.columns: Sequence[str] | None = self._columns
        self._own = {*settings.text_columns, settings.time_column}
        self._kinds = {
            field.name: kind
            for field in first.schema
            if field.name not in self._own and (kind := _kind_of(field.type)) is not None
        }
        self._segment_rows = rows_per_segment(BLOCK_BYTES / max(1, first.num_rows), segment_rows)

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`. A segment ends with a row that is sent; those set aside belong to rows behind it."""
        aside: list[Malformed] = []
        for batches in cut(without_first(self._batches(aside), first_row - malformed), self._segment_rows):
            last = first_row - malformed + sum(batch.num_rows for batch in batches) - 1
            before = _before(aside, last)
            end = last + before + 1
            yield self._segment(first_row, end, batches, aside[malformed:before])
            first_row, malformed = end, before
        if aside[malformed:]:
            yield self._segment(first_row, first_row + len(aside) - malformed, (), aside[malformed:])

    def _segment(
        self, first_row: int, end: int, batches: Sequence[Any], malformed: list[Malformed]
    ) -> Segment:
        not_sent = {each.row for each in malformed}
        places = (
            [row - first_row for row in range(first_row, end) if row not in not_sent] if malformed else None
        )
        return Segment(first_row, end - first_row, batches, self._kinds, malformed, places)

    def _first_block(self) -> Any:
        """The first block with the types that pyarrow tells."""
        try:
            with self._open(None, [], None) as reader:
                for batch in reader:
                    return batch
                return reader.schema.empty_table()
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{self._path} is no CSV file with a header: {error}") from error

    def _batches(self, aside: list[Malformed]) -> Iterator[Any]:
        """The rows to send. What is set aside before one of them is in `aside` when it comes, ascending."""
        lines: list[Malformed] = []
        parsed = taken = 0
        try:
            end = _End()
            with self._open(dict.fromkeys(self._columns, pa.binary()), lines, end) as reader:
                for batch in self._closed(reader, lines, end):
                    texts, unread = self._texts(batch, parsed, lines)
                    parsed += batch.num_rows
                    before = _before(lines, parsed - 1)
                    aside += sorted([*lines[taken:before], *unread], key=lambda each: each.row)
                    taken = before
                    yield texts
                aside += lines[taken:]
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{self._path} cannot be read on: {error}") from error

    def _texts(self, batch: Any, first: int, lines: Sequence[Malformed]) -> tuple[Any, list[Malformed]]:
        """The rows of a batch as strings, and those that are none. Its first row is the `first`-th that has
        the header's columns; `lines` have not.
        """
        schema = pa.schema([(name, pa.string()) for name in self._columns])
        try:
            return batch.cast(schema), []
        except pa.ArrowInvalid:
            faults = [_not_utf8(row) for row in batch.to_pylist()]
        unread = []
        for place, name in enumerate(faults):
            if name is not None:
                row = first + place + _before(lines, first + place)
                field = name if name in self._own else f"attributes[{name!r}]"
                values = batch.slice(place, 1).to_pylist()[0].items()
                data = {key: value and value.decode(errors="replace") for key, value in values}
                unread.append(Malformed(row, field, "is no UTF-8", data))
        return batch.filter(pa.array([name is None for name in faults])).cast(schema), unread

    def _closed(self, reader: Any, lines: Sequence[Malformed], end: _End) -> Iterator[Any]:
        """The batches of a reader. Raises CannotImport for a quote that is still open at the end of the file,
        after all rows before it: for the reader, what follows the quote is one value.
        """
        held = None
        rows = 0
        for batch in reader:
            if held is not None:
                yield held
            held = batch
            rows += batch.num_rows
        row = end.open_row
        if held is not None and row is None and not end.was_seen:
            # It has as many columns as others, and so is the last of those that are sent.
            row = rows - 1 + _before(lines, rows - 1)
            held = held.slice(0, held.num_rows - 1)
        if held is not None:
            yield held
        if row is not None:
            raise CannotImport(
                f"{self._path}: row {row} has a quote that is not closed before the end of the file"
            )

    def _open(self, types: dict[str, Any] | None, aside: list[Malformed], end: _End | None) -> Any:
        """A reader of record batches that adds the lines it leaves out to `aside`."""

        def set_aside(row: Any) -> str:
            if end is not None and end.is_in(row):
                return "skip"
            described = f"has {row.actual_columns} columns; {row.expected_columns} are expected"
            aside.append(Malformed(row.number - HEADER_AND_ONE, "", described, row.text))
            return "skip"

        convert = pyarrow.csv.ConvertOptions(
            column_types=types,
            strings_can_be_null=True,
            null_values=[NO_VALUE],
            true_values=["true", "True", "TRUE"],
            false_values=["false", "False", "FALSE"],
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=set_aside)
        # With threads, lines would come without their numbers.
        read = pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False)
        # Compressed files are told by their names.
        file = pa.input_stream(self._path)
        if end is not None:
            file = end.after(file, len(self._columns))
        return pyarrow.csv.open_csv(file, read, parse, convert)


class _End:
    """A last line that no file has, with more columns than any other: the reader sets it aside, by itself, or
    as part of a row with an open quote, or has it in the last value of such a row.
    """

    def __init__(self) -> None:
        self._line = ""
        self.was_seen = False
        self.open_row: int | None = None
        """The row that was set aside with the line in it."""

    def is_in(self, row: Any) -> bool:
        """Whether a row that was set aside is this line, or has it in a value."""
        if not row.text.endswith(self._line):
            return False
        if row.text == self._line:
            self.was_seen = True
        else:
            self.open_row = row.number - HEADER_AND_ONE
        return True

    def after(self, file: Any, columns: int) -> Any:
        """The file, with the line behind it."""
        self._line = "," * columns + uuid.uuid4().hex
        return _Chained(file, f"\n{self._line}\n".encode())


class _Chained(io.RawIOBase):
    """A file and some bytes behind it."""

    def __init__(self, file: Any, rest: bytes) -> None:
        self._file = file
        self._rest = io.BytesIO(rest)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """As of any raw stream: the number of bytes read, 0 at the end."""
        data = self._file.read(len(buffer)) or self._rest.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def _before(aside: Sequence[Malformed], place: int) -> int:
    """How many of these rows, ascending, stand before the row that is the `place`-th of all others."""
    return bisect.bisect_right(range(len(aside)), place, key=lambda at: aside[at].row - at)


def _not_utf8(row: Mapping[str, bytes | None]) -> str | None:
    """The first column whose value is no UTF-8; None when there is none."""
    for name, value in row.items():
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return name
    return None


def _kind_of(type_: Any) -> ValueKind.ValueType | None:
    """The kind that strings of a column should be read as; None = strings."""
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return VALUE_KIND_NUMBER
    if pa.types.is_boolean(type_):
        return VALUE_KIND_BOOL
    return VALUE_KIND_TIME if pa.types.is_timestamp(type_) or pa.types.is_date(type_) else None
