"""Reads a CSV file with a header line, in blocks of text columns."""

from __future__ import annotations

import bisect
import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from milepost.arrays import integers
from milepost.importing.errors import CannotImport
from milepost.importing.files import COMPRESSED_SUFFIX, open_text
from milepost.importing.row_ends import QUOTED_BYTES_MAX, OpenQuote, blocks, first_row_end
from milepost.importing.settings import UNNAMED, Reading, Shaping
from milepost.importing.source import NOT_UTF8, ROW_BYTES_MAX, ROW_TOO_LONG, Malformed

BLOCK_BYTES = 4 * 1024 * 1024
NO_VALUE = ""
_OTHER_DELIMITERS = {";": "';'", "\t": "tab", "|": "'|'", ",": "','"}


class CsvFile:
    """The columns of a CSV file, and its rows in blocks."""

    def __init__(self, path: Path, reading: Reading) -> None:
        """Reads the header. Raises CannotImport if it is unusable."""
        self.path = path
        self._reading = reading
        self.shaping = Shaping(reading)
        self._delimiter = reading.delimiter or ("\t" if _is_tsv(path) else ",")
        with open_text(path) as file:
            self._header, names = self._read_header(file)
        self._names = names
        self._check_header()
        self.columns = {
            f"{place}": name
            for place, name in enumerate(names)
            if name != UNNAMED and not self.shaping.leaves_out(name)
        }
        """The columns to read: position → name. Within this module, columns are called by their positions."""
        self.unnamed = [
            f"{place}"
            for place, name in enumerate(names)
            if name == UNNAMED and not self.shaping.leaves_out(name)
        ]

    def _read_header(self, file: BinaryIO) -> tuple[bytes, list[str]]:
        """The bytes of the header with its line end, and the column names."""
        line = self._first_line(file)
        if not line.strip():
            raise CannotImport(f"{self.path} is empty: the first line must name the columns")
        try:
            text = io.StringIO(line.decode().lstrip("\r\n"), newline="")
        except UnicodeDecodeError as error:
            raise CannotImport(f"{self.path}, line 1: the header is not UTF-8: {error}") from error
        return line, [name.strip() for name in next(csv.reader(text, delimiter=self._delimiter))]

    def _first_line(self, file: BinaryIO) -> bytes:
        start = b""
        while len(start) <= QUOTED_BYTES_MAX:
            more = file.read(BLOCK_BYTES)
            # The last line of a file may have no line end.
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
        counts = Counter(name for name in self._names if not self.shaping.leaves_out(name))
        for name, count in counts.items():
            if count > 1 and name != UNNAMED:
                raise CannotImport(
                    f"{self.path}, line 1: the header has more than one column {name!r}: rename all but one"
                )
        is_own = self._reading.own_columns & set(self._names)
        if not is_own and (given := self._other_delimiter()):
            needed = ", ".join(column for _, column in self._reading.named_columns(only_needed=True))
            raise CannotImport(
                f"{self.path}, line 1: the header has none of the columns that rows need ({needed}), and"
                f" looks separated by something else: give --delimiter {given}"
            )

    def _other_delimiter(self) -> str | None:
        """The value of --delimiter that the header seems to need, if it is another one."""
        line = self._header.decode()
        for character, given in _OTHER_DELIMITERS.items():
            if character != self._delimiter and line.count(character) > line.count(self._delimiter):
                return given
        return None

    def row_bytes(self) -> float:
        """Bytes per row, by the first block."""
        first = next(self.blocks(), None)
        return 0.0 if first is None else first.size_bytes / max(1, first.rows)

    def blocks(self, columns: Sequence[str] | None = None) -> Iterator[Block]:
        """The rows in blocks. `columns` are the positions to read, None = all that are not left out. The
        caller may remove some between blocks.

        Raises CannotImport for a file that cannot be read and, after the rows before it, for a quote that is
        never closed.
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
        if len(data) > ROW_BYTES_MAX:
            batch, long = self._without_long(batch, first_row, sorted([*lines, *unread], key=_row))
            unread += long
        rows = batch.num_rows + len(lines) + len(unread)
        malformed = sorted([*lines, *unread], key=_row)
        named = batch.rename_columns([self._names[int(place)] for place in columns])
        return Block(first_row, rows, len(data), columns, named, malformed)

    def _batch(self, data: bytes, columns: Sequence[str], type_: Any, set_aside: Any) -> Any:
        table = self._parsed(data, columns, type_, set_aside).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def _parsed(self, data: bytes, columns: Sequence[str], type_: Any, set_aside: Any) -> Any:
        """The rows of some bytes, with positions as column names."""
        places = [f"{place}" for place in range(len(self._names))]
        # In one block on this thread, so that an error leaves no thread running.
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
        """The rows of a batch of bytes as texts, and those that are not UTF-8. The batch lacks `lines`."""
        faults = [_not_utf8(row) for row in batch.to_pylist()]
        unread = []
        for place, column in enumerate(faults):
            if column is not None:
                row = first_row + place + rows_before(lines, place, first_row)
                name = self._names[int(column)]
                values = batch.slice(place, 1).to_pylist()[0].items()
                data = {
                    self._names[int(key)]: value and value.decode(errors="replace") for key, value in values
                }
                unread.append(Malformed(row, self._reading.field_of(name), NOT_UTF8, data))
        kept = batch.filter(pa.array([column is None for column in faults]))
        return kept.cast(pa.schema([(column, pa.string()) for column in batch.schema.names])), unread

    def _without_long(
        self, batch: Any, first_row: int, malformed: Sequence[Malformed]
    ) -> tuple[Any, list[Malformed]]:
        """The batch without rows that are too long, and those. The batch lacks `malformed`."""
        lengths = [integers(pa.compute.binary_length(column).fill_null(0)) for column in batch.columns]
        is_long = np.sum(lengths, axis=0) > ROW_BYTES_MAX
        long = []
        for place in np.flatnonzero(is_long).tolist():
            [data] = batch.slice(place, 1).to_pylist()
            named = {self._names[int(key)]: value for key, value in data.items()}
            widest = int(np.argmax([length[place] for length in lengths]))
            field = self._reading.field_of(self._names[int(batch.schema.names[widest])])
            row = first_row + place + rows_before(malformed, place, first_row)
            long.append(Malformed(row, field, ROW_TOO_LONG, named))
        return batch.filter(pa.array(~is_long)), long


class Block:
    """Rows of a file from `first_row` on: a batch of rows to send, with columns by position, and the
    malformed rows, ascending.
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
        """The number in the file of a row of `batch`."""
        return self.first_row + place + rows_before(self.malformed, place, self.first_row)


def rows_before(aside: Sequence[Malformed], place: int, first_row: int = 0) -> int:
    """How many malformed rows (ascending) come before the row to send number `place` from `first_row` on."""
    return bisect.bisect_right(range(len(aside)), place, key=lambda at: aside[at].row - first_row - at)


def _row(malformed: Malformed) -> int:
    return malformed.row


def _not_utf8(row: Mapping[str, bytes | None]) -> str | None:
    """The first column whose value is not UTF-8; None if all are."""
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
