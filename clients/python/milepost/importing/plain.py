"""Rows of record batches as Python values for people to read, for example rejected rows.

Arrow's conversion raises for values that Python cannot hold: years beyond 9999, nanoseconds, texts that are
not UTF-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def plain_rows(batches: Sequence[Any], places: Sequence[int]) -> list[dict[str, object]]:
    """The rows at these positions, counted over all batches, by column. Never raises for a value. NaN and
    infinities become texts, because JSON has no such numbers.
    """
    import pyarrow as pa

    table = pa.Table.from_batches(batches).take(pa.array(list(places), pa.int64()))
    columns = {name: _plain(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return [{name: values[row] for name, values in columns.items()} for row in range(len(places))]


def encoded(column: Any) -> Sequence[Any]:
    """The texts of each row as bytes, or lists of them; nothing for columns without texts."""
    import pyarrow as pa

    from milepost.arrow_types import is_text, is_texts

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if is_text(column.type):
        return list(column.cast(pa.large_binary()).to_pylist())
    element = getattr(column.type, "value_type", None)
    if element is None or not is_texts(element):
        return ()
    return list(column.cast(pa.large_list(pa.large_binary())).to_pylist())


def _plain(column: Any) -> list[object]:
    import pyarrow as pa

    try:
        return [_finite(value) for value in column.to_pylist()]
    except UnicodeDecodeError:
        return [_decoded(value) for value in encoded(column)]
    except (pa.ArrowException, ValueError, OverflowError):
        if pa.types.is_timestamp(column.type):
            # In UTC: years out of range have no local time.
            column = column.cast(pa.timestamp(column.type.unit))
        return list(column.cast(pa.string()).to_pylist())


def _decoded(value: Any) -> object:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return value and value.decode(errors="replace")


def _finite(value: object) -> object:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
