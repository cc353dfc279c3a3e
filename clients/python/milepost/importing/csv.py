"""CSV files with a header line. Values are sent as texts; the service reads them as the kinds it is given.

So a value that is not what its column says rejects its row, and nothing more.
"""

from __future__ import annotations

import bisect
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv

from milepost.importing.errors import CannotImport
from milepost.importing.files import open_text
from milepost.importing.row_ends import ROW_BYTES_MAX, OpenQuote, blocks, first_row_end
from milepost.importing.settings import Kinds, Reading
from milepost.importing.source import (
    COMPRESSED_SUFFIX,
    Malformed,
    Segment,
    cut,
    rows_per_segment,
    without_first,
)

BLOCK_BYTES = 4 * 1024 * 1024
NO_VALUE = ""
UNNAMED = ""
_OTHER_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


class CsvSource:
    """The rows of a CSV file; the header and empty lines are none. Rows that do not have the header's
    columns, or are no UTF-8, are set aside with their places.
    """

    rows: int | None = None

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        self._file = CsvFile(path, reading)
        self.columns: Sequence[str] | None = list(self._file.columns.values())
        self.has_all_columns = True
        self._kinds = self._file.kinds()
        self._segment_rows = rows_per_segment(self._file.row_bytes(), segment_rows)

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

    def _batches(self, aside: list[Malformed]) -> Iterator[Any]:
        """The rows to send. What is set aside before one of them is in `aside` when it comes, ascending."""
        for block in self._file.blocks():
            aside += block.malformed
            if block.batch.num_rows:
                yield block.batch


class CsvFile:
    """A CSV file: its columns, and its rows block by block."""

    def __init__(self, path: Path, reading: Reading) -> None:
        """Reads the header. Raises CannotImport when it cannot be used."""
        self.path = path
        self._reading = reading
        self._delimiter = reading.delimiter or ("\t" if _is_tsv(path) else ",")
        with open_text(path) as file:
            self._header, names = self._read_header(file)
        self._names = names
        self._check_header()
        self.columns = {
            f"{place}": name
            for place, name in enumerate(names)
            if name != UNNAMED and not reading.leaves_out(name)
        }
        """The columns to read, by the names that they have within this module: their places."""
        self.unnamed = [
            f"{place}" for place, name in enumerate(names) if name == UNNAMED and not reading.leaves_out(name)
        ]

    def _read_header(self, file: BinaryIO) -> tuple[bytes, list[str]]:
        """The bytes to the end of the header, and the names."""
        line = self._first_line(file)
        if not line.strip():
            raise CannotImport(f"{self.path} is empty: the first line must name the columns")
        try:
            text = io.StringIO(line.decode().lstrip("\r\n"), newline="")
        except UnicodeDecodeError as error:
            raise CannotImport(f"{self.path}, line 1: the header is no UTF-8: {error}") from error
        return line, [name.strip() for name in next(csv.reader(text, delimiter=self._delimiter))]

    def _first_line(self, file: BinaryIO) -> bytes:
        start = b""
        while len(start) <= ROW_BYTES_MAX:
            more = file.read(BLOCK_BYTES)
            # At the end of the file, the line may lack its own.
            start += more or b"\n"
            lead = len(start) - len(start.lstrip(b"\r\n"))
            end = first_row_end(start[lead:], self._delimiter.encode())
            if end is not None and not (more and start.endswith(b"\r")):
                return start[: lead + end]
            if not more:
                break
        if not start.strip():
            return b""
        raise CannotImport(f"{self.path}, line 1: the header has a quote that is not closed")

    def _check_header(self) -> None:
        counts = Counter(name for name in self._names if not self._reading.leaves_out(name))
        for name, count in counts.items():
            if count > 1 and name != UNNAMED:
                raise CannotImport(
                    f"{self.path}, line 1: the header has more than one column {name!r}: rename all but one"
                )
        own = self._reading.own_columns
        if not own & set(self._names) and (given := self._other_delimiter()):
            raise CannotImport(
                f"{self.path}, line 1: the header has none of the columns {', '.join(sorted(own))}, and looks"
                f" separated by something else: give --delimiter {given}"
            )

    def _other_delimiter(self) -> str | None:
        """What the header looks separated by, as an option, if not by the delimiter."""
        line = self._header.decode()
        for character, given in _OTHER_DELIMITERS.items():
            if character != self._delimiter and line.count(character) > line.count(self._delimiter):
                return given
        return None

    def kinds(self) -> Kinds:
        """The kinds that the service has to read columns as, where the caller gives none."""
        from milepost.importing.csv_kinds import values_of

        if self._reading.told is not None:
            return {name: kind for name, kind in self._reading.told.items() if name in self.columns.values()}
        return {name: values.told(name).kind for name, values in values_of(self.path, self._reading).items()}

    def row_bytes(self) -> float:
        """The bytes of a row, as far as the first block shows."""
        first = next(self.blocks(), None)
        return 0.0 if first is None else first.size_bytes / max(1, first.rows)

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """The rows. `columns` are those to read, by place; None = all that are not left out. They may become
        fewer between blocks.

        Raises CannotImport for what cannot be read, and for a quote that is never closed, after the rows
        before it.
        """
        first_row = 0
        columns = list(self.columns) if columns is None else columns
        try:
            with open_text(self.path) as file:
                _skip(file, len(self._header))
                for data in blocks(file, self._delimiter.encode(), BLOCK_BYTES):
                    if data[:1] not in (b"\r", b"\n") or data.strip(b"\r\n"):
                        block = self._block(data, first_row, tuple(columns))
                        first_row += block.rows
                        yield block
        except OpenQuote as error:
            raise CannotImport(f"{self.path}: row {first_row} {error}") from error

    def _block(self, data: bytes, first_row: int, columns: Sequence[str]) -> Block:
        lines: list[Malformed] = []

        def set_aside(row: Any) -> str:
            described = f"has {row.actual_columns} columns; {row.expected_columns} are expected"
            lines.append(Malformed(first_row + row.number - 1, "", described, row.text))
            return "skip"

        try:
            batch, unread = self._batch(data, columns, pa.string(), set_aside), list[Malformed]()
        except (pa.ArrowInvalid, UnicodeDecodeError):
            lines.clear()
            batch, unread = self._utf8(self._batch(data, columns, pa.binary(), set_aside), first_row, lines)
        rows = batch.num_rows + len(lines) + len(unread)
        malformed = sorted([*lines, *unread], key=lambda each: each.row)
        named = batch.rename_columns([self._names[int(place)] for place in columns])
        return Block(first_row, rows, len(data), columns, named, malformed)

    def _batch(self, data: bytes, columns: Sequence[str], type_: Any, set_aside: Any) -> Any:
        table = self._parsed(data, columns, type_, set_aside).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def _parsed(self, data: bytes, columns: Sequence[str], type_: Any, set_aside: Any) -> Any:
        """The rows of some bytes, with places for names."""
        places = [f"{place}" for place in range(len(self._names))]
        # All at once and by this thread: nothing is left running when something goes wrong.
        read = pyarrow.csv.ReadOptions(block_size=len(data) + 1, use_threads=False, column_names=places)
        parse = pyarrow.csv.ParseOptions(
            delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=set_aside
        )
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(places, type_),
            include_columns=columns,
            strings_can_be_null=True,
            null_values=[NO_VALUE, *self._reading.null_values],
        )
        return pyarrow.csv.read_csv(pa.BufferReader(data), read, parse, convert)

    def _utf8(self, batch: Any, first_row: int, lines: Sequence[Malformed]) -> tuple[Any, list[Malformed]]:
        """The rows of a batch of bytes as texts, and those that are none. `lines` are not in the batch."""
        faults = [_not_utf8(row) for row in batch.to_pylist()]
        own = self._reading.own_columns
        unread = []
        for place, column in enumerate(faults):
            if column is not None:
                row = first_row + place + _before(lines, place, first_row)
                name = self._names[int(column)]
                values = batch.slice(place, 1).to_pylist()[0].items()
                data = {
                    self._names[int(key)]: value and value.decode(errors="replace") for key, value in values
                }
                field = name if name in own else f"attributes[{name!r}]"
                unread.append(Malformed(row, field, "is no UTF-8", data))
        kept = batch.filter(pa.array([column is None for column in faults]))
        return kept.cast(pa.schema([(column, pa.string()) for column in batch.schema.names])), unread


class Block:
    """Some rows of a file from `first_row` on: those to send, of some columns by their places, and those set
    aside, ascending.
    """

    def __init__(
        self,
        first_row: int,
        rows: int,
        size_bytes: int,
        columns: Sequence[str],
        batch: Any,
        malformed: Sequence[Malformed],
    ) -> None:
        self.first_row = first_row
        self.rows = rows
        self.size_bytes = size_bytes
        self.columns = columns
        self.batch = batch
        self.malformed = malformed

    def row_of(self, place: int) -> int:
        """The place in the file of a row of `batch`."""
        return self.first_row + place + _before(self.malformed, place, self.first_row)


def _before(aside: Sequence[Malformed], place: int, first_row: int = 0) -> int:
    """How many of these rows, ascending, stand before the row that is the `place`-th of all others from
    `first_row` on.
    """
    return bisect.bisect_right(range(len(aside)), place, key=lambda at: aside[at].row - first_row - at)


def _not_utf8(row: Mapping[str, bytes | None]) -> str | None:
    """The first column whose value is no UTF-8; None when there is none."""
    for name, value in row.items():
        try:
            (value or b"").decode()
        except UnicodeDecodeError:
            return name
    return None


def _is_tsv(path: Path) -> bool:
    return Path(path.name.lower().removesuffix(COMPRESSED_SUFFIX)).suffix == ".tsv"


def _skip(file: BinaryIO, size: int) -> None:
    while size and (skipped := file.read(size)):
        size -= len(skipped)
