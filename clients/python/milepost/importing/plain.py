"""Rows of record batches in Python's own form, for people to read: of rejected rows, say.

Arrow's own conversion raises for what Python cannot hold: a year beyond 9999, or nanoseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def plain_rows(batches: Sequence[Any], places: Sequence[int]) -> list[dict[str, object]]:
    """The rows at some places, counted over all batches, by column. Never raises for a value. NaN and
    infinities are texts, as JSON has no such numbers.
    """
    import pyarrow as pa

    table = pa.Table.from_batches(batches).take(pa.array(list(places), pa.int64()))
    columns = {name: _plain(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return [{name: values[row] for name, values in columns.items()} for row in range(len(places))]


def _plain(column: Any) -> list[object]:
    import pyarrow as pa

    try:
        return [_finite(value) for value in column.to_pylist()]
    except (pa.ArrowException, ValueError, OverflowError):
        if pa.types.is_timestamp(column.type):
            # In UTC: there is no local time of years out of range.
            column = column.cast(pa.timestamp(column.type.unit))
        return list(column.cast(pa.string()).to_pylist())


def _finite(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
