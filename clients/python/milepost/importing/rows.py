"""Finds and removes rows without a value in a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from milepost.importing.source import Segment


class Lacking:
    """The rows of record batches without a value in a column: null, an empty string, or no such column."""

    def __init__(self, batches: Sequence[Any], column: str) -> None:
        import numpy as np

        self._rows = np.concatenate([np.zeros(0, np.bool_), *(_lacks(batch, column) for batch in batches)])
        self.count = int(self._rows.sum())

    def among(self, places: Sequence[int]) -> int:
        """How many of the rows at these positions have none."""
        return int(self._rows[list(places)].sum())

    def others(self) -> list[int]:
        """The positions of all rows that have one, ascending."""
        places: list[int] = (~self._rows).nonzero()[0].tolist()
        return places


def without_rows_lacking(segment: Segment, column: str) -> tuple[Segment, int]:
    """The segment without rows that lack a value in the column, and the number of those."""
    lacking = Lacking(segment.batches, column)
    if not lacking.count:
        return segment, 0
    kept = lacking.others()
    places = kept if segment.places is None else [segment.places[place] for place in kept]
    batches = [_with_value(batch, column) for batch in segment.batches]
    batches = [batch for batch in batches if batch.num_rows]
    return dataclasses.replace(segment, batches=batches, places=places), lacking.count


def _with_value(batch: Any, column: str) -> Any:
    import pyarrow as pa

    return batch.filter(pa.array(~_lacks(batch, column)))


def _lacks(batch: Any, column: str) -> Any:
    import numpy as np

    from milepost.arrays import is_filled

    if column not in batch.schema.names:
        return np.ones(batch.num_rows, np.bool_)
    return ~is_filled(batch.column(column))
