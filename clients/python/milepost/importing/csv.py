"""CSV files with a header line. Values are sent as texts; the service reads them as the kinds it is given.

So a value that is not of its column's kind rejects its row, and nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from milepost.importing.csv_file import CsvFile, rows_before
from milepost.importing.csv_kinds import values_of
from milepost.importing.settings import Kinds, Reading
from milepost.importing.source import Malformed, Segment, cut, rows_per_segment, without_first


class CsvSource:
    """The rows of a CSV file, without the header and empty lines. Rows with more or fewer columns than the
    header, and rows that are not UTF-8, are set aside as malformed.
    """

    rows: int | None = None

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        self._file = CsvFile(path, reading)
        self.shaping = self._file.shaping
        self.columns: Sequence[str] | None = list(self._file.columns.values())
        self.has_all_columns = True
        self._kinds = self._read_kinds()
        self._segment_rows = rows_per_segment(self._file.row_bytes(), segment_rows)

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`. A segment ends with a row to send; malformed rows go with the next row to send."""
        aside: list[Malformed] = []
        for batches in cut(without_first(self._batches(aside), first_row - malformed), self._segment_rows):
            last = first_row - malformed + sum(batch.num_rows for batch in batches) - 1
            before = rows_before(aside, last)
            end = last + before + 1
            yield self._segment(first_row, end, batches, aside[malformed:before])
            first_row, malformed = end, before
        if aside[malformed:]:
            yield self._segment(first_row, first_row + len(aside) - malformed, (), aside[malformed:])

    def _read_kinds(self) -> Kinds:
        """The kinds of columns that the caller gives no kind."""
        found = self._reading.found_kinds
        if found is not None:
            return {name: kind for name, kind in found.items() if name in self._file.columns.values()}
        return {
            name: values.found(name).kind for name, values in values_of(self._path, self._reading).items()
        }

    def _segment(
        self, first_row: int, end: int, batches: Sequence[Any], malformed: list[Malformed]
    ) -> Segment:
        not_sent = {each.row for each in malformed}
        places = (
            [row - first_row for row in range(first_row, end) if row not in not_sent] if malformed else None
        )
        return Segment(first_row, end - first_row, batches, self._kinds, malformed, places)

    def _batches(self, aside: list[Malformed]) -> Iterator[Any]:
        """The rows to send. The malformed rows before a batch are added to `aside` first, ascending."""
        for block in self._file.blocks():
            aside += block.malformed
            if block.batch.num_rows:
                yield block.batch
