"""Rows of record batches that lack a value in a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from milepost.importing.source import Segment


class Lacking:
    """Which rows of some record batches have no value in a column, or an empty string, or no such column."""

    def __init__(self, batches: Sequence[Any], column: str) -> None:
        import pyarrow as pa

        self._rows = pa.chunked_array([_lacks(batch, column) for batch in batches], pa.bool_())
        self.count = _count(self._rows)

    def among(self, places: Sequence[int]) -> int:
        """How many of the rows at these places have none."""
        import pyarrow as pa

        return _count(self._rows.take(pa.array(places, pa.int64())))

    def others(self) -> list[int]:
        """The places of all rows that have one, ascending."""
        import pyarrow.compute

        places: list[int] = pyarrow.compute.indices_nonzero(pyarrow.compute.invert(self._rows)).to_pylist()
        return places


def without_rows_lacking(segment: Segment, column: str) -> tuple[Segment, int]:
    """The segment without the rows that have no value in the column, and how many those are."""
    lacking = Lacking(segment.batches, column)
    if not lacking.count:
        return segment, 0
    kept = lacking.others()
    places = kept if segment.places is None else [segment.places[place] for place in kept]
    batches = [_with_value(batch, column) for batch in segment.batches]
    batches = [batch for batch in batches if batch.num_rows]
    return dataclasses.replace(segment, batches=batches, places=places), lacking.count


def _with_value(batch: Any, column: str) -> Any:
    import pyarrow.compute

    return batch.filter(pyarrow.compute.invert(_lacks(batch, column)))


def _lacks(batch: Any, column: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute

    if column not in batch.schema.names:
        return pa.repeat(True, batch.num_rows)
    values = batch.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    missing = values.is_null()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        empty = pyarrow.compute.equal(values, pa.scalar("", values.type)).fill_null(True)
        return pyarrow.compute.or_(missing, empty)
    return missing


def _count(bools: Any) -> int:
    import pyarrow.compute

    return int(pyarrow.compute.sum(bools).as_py() or 0)
