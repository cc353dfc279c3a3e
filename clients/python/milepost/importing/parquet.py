"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from milepost.importing.errors import CannotImport
from milepost.importing.source import Segment, cut, rows_per_segment, without_first

READ_ROWS = 1 << 17


class ParquetSource:
    """The rows of a Parquet file, with the types that it says."""

    def __init__(self, path: Path, segment_rows: int) -> None:
        self._path = path
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{path} is no Parquet file: {error}") from error
        self.has_all_columns = True
        self.columns: Sequence[str] | None = self._file.schema_arrow.names
        metadata = self._file.metadata
        self.rows: int | None = metadata.num_rows
        groups = range(metadata.num_row_groups)
        self._group_rows = [metadata.row_group(group).num_rows for group in groups]
        size_bytes = sum(metadata.row_group(group).total_byte_size for group in groups)
        self._segment_rows = rows_per_segment(size_bytes / max(1, metadata.num_rows), segment_rows)

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        for batches in cut(self._batches(first_row), self._segment_rows):
            rows = sum(batch.num_rows for batch in batches)
            yield Segment(first_row, rows, batches)
            first_row += rows

    def _batches(self, first_row: int) -> Iterator[Any]:
        group = 0
        while group < len(self._group_rows) and first_row >= self._group_rows[group]:
            first_row -= self._group_rows[group]
            group += 1
        groups = list(range(group, len(self._group_rows)))
        try:
            yield from without_first(self._file.iter_batches(READ_ROWS, row_groups=groups), first_row)
        except (pa.ArrowException, OSError) as error:
            raise CannotImport(f"{self._path} is damaged: {error}") from error
