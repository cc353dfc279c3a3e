"""Parquet files. Values keep the types of the file."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from milepost.arrays import has_value, is_filled, items
from milepost.arrow_types import kind_of
from milepost.importing.errors import CannotImport, nameless
from milepost.importing.plain import plain_rows
from milepost.importing.settings import UNNAMED, Reading, Shaping
from milepost.importing.source import Segment, cut, rows_per_segment, without_first
from milepost.importing.unsendable import set_aside

READ_ROWS = 1 << 17
MICROS_PER_SECOND = 1_000_000
TYPE_CHARACTERS = 60
"""A message shows this much of a type."""
_NOT_PARQUET = (pa.ArrowException, OSError)


class ParquetSource:
    """The rows of a Parquet file."""

    def __init__(self, path: Path, reading: Reading, segment_rows: int) -> None:
        self._path = path
        self._reading = reading
        self.shaping = Shaping(reading)
        try:
            with self._open("us") as file, self._open("s") as seconds:
                metadata, schema, coarse = file.metadata, file.schema_arrow, seconds.schema_arrow
        except _NOT_PARQUET as error:
            raise CannotImport(f"{path} is not a Parquet file: {error}") from error
        except UnicodeDecodeError as error:
            raise CannotImport(f"{path} has a column whose name is not UTF-8: rename it") from error
        self.rows: int | None = metadata.num_rows
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        self._group_rows = [group.num_rows for group in groups]
        size_bytes = sum(group.total_byte_size for group in groups)
        self._segment_rows = rows_per_segment(size_bytes / max(1, metadata.num_rows), segment_rows)
        self._read_columns = [name for name in schema.names if not self.shaping.leaves_out(name)]
        # The unit changes the type of INT96 times only, also within objects.
        self._old_times = [
            field.name
            for field, other in zip(schema, coarse, strict=True)
            if field.type != other.type and field.name in self._read_columns
        ]
        no_rows = pa.record_batch([pa.nulls(0, field.type) for field in schema], schema=schema)
        flattened = self._flattened(no_rows).schema
        own = {UNNAMED, *reading.own_columns}
        self._unfit = [each.name for each in flattened if each.name not in own and kind_of(each.type) is None]
        """What no attribute can hold: `Reading.skip_objects` leaves it out, otherwise it is refused."""
        self.columns: Sequence[str] | None = self._checked(flattened)
        self.has_all_columns = True

    def _open(self, int96_unit: str) -> Any:
        """Reads INT96 times in the unit. As nanoseconds, the default, years after 2262 would overflow."""
        return pyarrow.parquet.ParquetFile(
            self._path, coerce_int96_timestamp_unit=int96_unit, page_checksum_verification=True
        )

    def _checked(self, schema: Any) -> Sequence[str]:
        """The names of the columns to send. Raises CannotImport for columns that cannot be sent."""
        for name, count in Counter(schema.names).items():
            if count > 1 and name != UNNAMED:
                raise CannotImport(
                    f"{self._path} has more than one column {name!r}: rename all but one of them"
                )
        if self._unfit and not self._reading.skip_objects:
            raise CannotImport(f"{self._path}: {_refusal(schema, self._unfit)}")
        if UNNAMED in schema.names:
            self._check_unnamed()
        return [name for name in schema.names if name != UNNAMED]

    def _check_unnamed(self) -> None:
        """Raises CannotImport for a value in a column without a name."""
        first_row = 0
        for batch in self._read(list(range(len(self._group_rows)))):
            shaped = self._flattened(batch)
            for place, name in enumerate(shaped.schema.names):
                if name == UNNAMED and (rows := np.flatnonzero(is_filled(shaped.column(place)))).size:
                    row = int(rows[0])
                    [value] = plain_rows([shaped.select([place]).rename_columns(["a"]).slice(row, 1)], [0])
                    raise nameless(f"{self._path}: a column", first_row + row, value["a"])
            first_row += batch.num_rows

    def segments(self, first_row: int, malformed: int) -> Iterator[Segment]:
        """See `Source`."""
        for batches in cut(self._batches(first_row), self._segment_rows):
            rows = sum(batch.num_rows for batch in batches)
            sent, left_out = self._without_unfit(batches)
            sent, aside, places = set_aside(sent, first_row, self._reading)
            yield Segment(first_row, rows, sent, malformed=aside, places=places, left_out=left_out)
            first_row += rows

    def _without_unfit(self, batches: Sequence[Any]) -> tuple[Sequence[Any], Mapping[str, int]]:
        """The batches without columns that no attribute can hold, and the number of values in these."""
        if not self._unfit:
            return batches, {}
        counts = {
            name: sum(len(batch) - batch.column(name).null_count for batch in batches) for name in self._unfit
        }
        return [batch.drop_columns(self._unfit) for batch in batches], counts

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
        """The columns to send: those with a name."""
        batch = self._flattened(batch)
        named = [place for place, name in enumerate(batch.schema.names) if name != UNNAMED]
        return batch.select(named) if len(named) < batch.num_columns else batch

    def _flattened(self, batch: Any) -> Any:
        """The columns that are read, with members in place of objects: see `Reading.flatten`."""
        read = [place for place, name in enumerate(batch.schema.names) if name in self._read_columns]
        batch = batch.select(read) if len(read) < batch.num_columns else batch
        for path in self._reading.flatten:
            names = batch.schema.names
            steps = [path] if path in names else path.split(".")
            if steps[0] in names:
                batch = self._with_members(batch, path, steps)
        return batch

    def _with_members(self, batch: Any, path: str, steps: Sequence[str]) -> Any:
        """The batch with the members of an object as columns. Enclosing objects keep their other members."""
        place = batch.schema.get_field_index(steps[0])
        taken_out, rest = _taken_out(batch.column(place), steps[1:])
        if taken_out is None:
            return batch
        self.shaping.flattens(path)
        batch = (
            batch.remove_column(place)
            if rest is None
            else batch.set_column(place, batch.schema.field(place).with_type(rest.type), rest)
        )
        taken = {*batch.schema.names, *self._reading.own_columns}
        for field in taken_out.type:
            own = f"{path}.{field.name}" if field.name in taken else field.name
            if not self.shaping.leaves_out(own):
                batch = batch.append_column(own, pa.compute.struct_field(taken_out, field.name))
        return batch


def _taken_out(column: Any, steps: Sequence[str]) -> tuple[Any, Any]:
    """The object at the end of the steps, or None, and the column without it, or None if nothing is left."""
    if not pa.types.is_struct(column.type):
        return None, column
    if not steps:
        return column, None
    members = {field.name: pa.compute.struct_field(column, field.name) for field in column.type}
    if steps[0] not in members:
        return None, column
    found, rest = _taken_out(members.pop(steps[0]), steps[1:])
    if found is None:
        return None, column
    if rest is not None:
        members[steps[0]] = rest
    if not members:
        return found, None
    return found, pa.StructArray.from_arrays(
        list(members.values()), list(members), mask=pa.compute.is_null(column)
    )


def _refusal(schema: Any, unfit: Sequence[str]) -> str:
    """The message about columns that no attribute can hold."""
    types = [f"{schema.field(name).type}" for name in unfit]
    shown = [type_ if len(type_) <= TYPE_CHARACTERS else f"{type_[:TYPE_CHARACTERS]}..." for type_ in types]
    columns = ", ".join(f"{name!r} ({type_})" for name, type_ in zip(unfit, shown, strict=True))
    ways = [f"leave it out with --exclude {shlex.quote(unfit[0])}"]
    objects = [name for name in unfit if pa.types.is_struct(schema.field(name).type)]
    if objects:
        ways.append(f"make its members columns with --flatten {shlex.quote(objects[0])}")
    what = "a column of a type" if len(unfit) == 1 else "columns of types"
    return (
        f"has {what} that no attribute can hold: {columns}: {', '.join(ways)}, or leave out and count all"
        " such values with --skip-objects"
    )


def _in_range(micros: Any, seconds: Any) -> Any:
    """A column with INT96 times in microseconds, given the same in seconds. Times that overflowed become the
    latest or earliest possible time.
    """
    if pa.types.is_struct(micros.type):
        members = [
            _in_range(pa.compute.struct_field(micros, [place]), pa.compute.struct_field(seconds, [place]))
            for place in range(micros.type.num_fields)
        ]
        return pa.StructArray.from_arrays(members, fields=list(micros.type), mask=pa.compute.is_null(micros))
    if micros.type == seconds.type or not pa.types.is_timestamp(micros.type):
        # No time, or times in a list, which no attribute can hold.
        return micros
    has = has_value(micros)
    read = items(micros.view(pa.int64()), np.int64)
    whole = items(seconds.view(pa.int64()), np.int64)
    wrapped = has & (read // MICROS_PER_SECOND != whole)
    if not wrapped.any():
        return micros
    limits = np.iinfo(np.int64)
    kept = np.where(wrapped, np.where(whole > 0, limits.max, limits.min), read)
    return pa.array(kept, mask=~has).view(micros.type)
