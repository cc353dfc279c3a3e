"""Parquet files. Values have the types that the file says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from milepost.arrays import has_value, items
from milepost.importing.errors import CannotImport
from milepost.importing.settings import Reading
from milepost.importing.source import Segment, cut, rows_per_segment, without_first

READ_ROWS = 1 << 17
MICROS_PER_SECOND = 1_000_000
_INT96 = "INT96"
_NOT_PARQUET = (pa.ArrowException, OSError)


class ParquetSource:
    """The rows of a Parquet file."""

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        try:
            with self._open("us") as file:
                metadata, schema = file.metadata, file.schema_arrow
        except _NOT_PARQUET as error:
            raise CannotImport(f"{path} is no Parquet file: {error}") from error
        self.rows: int | None = metadata.num_rows
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self._group_rows = [group.num_rows for group in groups]
        size_bytes = sum(group.total_byte_size for group in groups)
        self._segment_rows = rows_per_segment(size_bytes / max(1, metadata.num_rows), segment_rows)
        self._read_columns = [name for name in schema.names if not reading.leaves_out(name)]
        leaves = [metadata.schema.column(place) for place in range(metadata.num_columns)]
        self._old_times = [
            leaf.path for leaf in leaves if leaf.physical_type == _INT96 and leaf.path in self._read_columns
        ]
        self.columns: Sequence[str] | None = self._checked_names(schema)
        self.has_all_columns = True

    def _open(self, int96_unit: str) -> Any:
        """INT96 is nanoseconds of a day and its number: as nanoseconds, years after 2262 would wrap round."""
        return pyarrow.parquet.ParquetFile(self._path, coerce_int96_timestamp_unit=int96_unit)

    def _checked_names(self, schema: Any) -> Sequence[str]:
        names: Sequence[str] = self._shaped(schema.empty_table()).schema.names
        for name, count in Counter(names).items():
            if count > 1:
                raise CannotImport(
                    f"{self._path} has more than one column {name!r}: rename all but one of them"
                )
        return names

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        for batches in cut(self._batches(first_row), self._segment_rows):
            rows = sum(batch.num_rows for batch in batches)
            sent, left_out = self._without_objects(batches)
            yield Segment(first_row, rows, sent, left_out=left_out)
            first_row += rows

    def _without_objects(self, batches: Sequence[Any]) -> tuple[Sequence[Any], Mapping[str, int]]:
        objects = [field.name for field in batches[0].schema if pa.types.is_nested(field.type)]
        objects = [name for name in objects if not _is_list_of_texts(batches[0].schema.field(name).type)]
        if not self._reading.skip_objects or not objects:
            return batches, {}
        counts = {
            name: sum(len(batch) - batch.column(name).null_count for batch in batches) for name in objects
        }
        return [batch.drop_columns(objects) for batch in batches], counts

    def _batches(self, first_row: int) -> Iterator[Any]:
        group = 0
        while group < len(self._group_rows) and first_row >= self._group_rows[group]:
            first_row -= self._group_rows[group]
            group += 1
        groups = list(range(group, len(self._group_rows)))
        try:
            yield from without_first(map(self._shaped, self._read(groups)), first_row)
        except _NOT_PARQUET as error:
            raise CannotImport(f"{self._path} is damaged: {error}") from error

    def _read(self, groups: list[int]) -> Iterator[Any]:
        with self._open("us") as file, self._open("s") as seconds:
            batches = file.iter_batches(READ_ROWS, row_groups=groups, columns=self._read_columns)
            if not self._old_times:
                yield from batches
                return
            wholes = seconds.iter_batches(READ_ROWS, row_groups=groups, columns=self._old_times)
            for batch, whole in zip(batches, wholes, strict=True):
                for name in self._old_times:
                    place = batch.schema.get_field_index(name)
                    column = _in_range(batch.column(place), whole.column(name))
                    batch = batch.set_column(place, batch.schema.field(place), column)
                yield batch

    def _shaped(self, batch: Any) -> Any:
        """The columns to send: objects to flatten as their members, see `Reading.flatten`."""
        names = [name for name in batch.schema.names if name in self._read_columns]
        batch = batch.select(names) if len(names) < batch.num_columns else batch
        for name in self._reading.flatten:
            if name in names and pa.types.is_struct(batch.schema.field(name).type):
                batch = self._flattened(batch, name)
        return batch

    def _flattened(self, batch: Any, name: str) -> Any:
        column = batch.column(name)
        batch = batch.drop_columns([name])
        taken = {*batch.schema.names, *self._reading.own_columns}
        for field in column.type:
            own = f"{name}.{field.name}" if field.name in taken else field.name
            if not self._reading.leaves_out(own):
                batch = batch.append_column(own, pa.compute.struct_field(column, field.name))
        return batch


def _in_range(micros: Any, seconds: Any) -> Any:
    """Times of INT96 in microseconds, those that wrapped round as the latest or the earliest there is."""
    has = has_value(micros)
    read = items(micros.view(pa.int64()), np.int64)
    whole = items(seconds.view(pa.int64()), np.int64)
    wrapped = has & (read // MICROS_PER_SECOND != whole)
    if not wrapped.any():
        return micros
    limits = np.iinfo(np.int64)
    kept = np.where(wrapped, np.where(whole > 0, limits.max, limits.min), read)
    return pa.array(kept, mask=~has).view(micros.type)


def _is_list_of_texts(type_: Any) -> bool:
    is_list = pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)
    return bool(is_list) and bool(
        pa.types.is_string(type_.value_type) or pa.types.is_large_string(type_.value_type)
    )
