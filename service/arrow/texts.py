"""Arrow arrays as columns of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from engine.event_columns import TextColumn
from service.arrow.layout import unfit
from service.arrow.plain import has_value, integers

TEXT_OR_INTEGER = "strings or integers"

SAMPLE_ROWS = 8_192
DISTINCT_SHARE = 0.99
"""When so many of a sample are distinct, looking for repetitions costs more than it saves."""

Codes = npt.NDArray[np.int64]
"""A place in the entries for each row; -1 where there is no value."""


def is_text(type_: pa.DataType) -> bool:
    """Whether values are strings, in any of Arrow's forms but a dictionary."""
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    )


def is_texts(type_: pa.DataType) -> bool:
    """The same, dictionaries included."""
    return is_text(type_.value_type if pa.types.is_dictionary(type_) else type_)


def decoded(array: pa.Array) -> pa.Array:
    """The array without a dictionary."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def coded(array: pa.Array) -> tuple[list[Any], Codes]:
    """Distinct values in Python's own form, and a code for each row."""
    encoded = array if _is_compact(array) else decoded(array).dictionary_encode()
    entries = encoded.dictionary.to_pylist()
    if encoded is array and len(set(entries)) < len(entries):
        # A caller's dictionary may repeat itself.
        return coded(decoded(array))
    return entries, _codes(encoded.indices)


def _is_compact(array: pa.Array) -> bool:
    if not pa.types.is_dictionary(array.type):
        return False
    return array.dictionary.null_count == 0 and len(array.dictionary) <= len(array)


def _codes(indices: pa.Array) -> Codes:
    codes = integers(indices).astype(np.int64, copy=False)
    return np.where(has_value(indices), codes, -1) if indices.null_count else codes


def text_column(name: str, array: pa.Array, default: str = "") -> TextColumn:
    """A text for each row; `default` where there is none or an empty one. Integers are written as decimals.

    Raises InvalidInput when the type is neither.
    """
    value_type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    if pa.types.is_null(value_type):
        return TextColumn.same(default, len(array))
    if not is_text(value_type) and not pa.types.is_integer(value_type):
        raise unfit(name, array.type, TEXT_OR_INTEGER)
    if not array.null_count and is_text(array.type) and _hardly_repeats(array):
        entries, codes = array.to_pylist(), np.arange(len(array))
    else:
        entries, codes = coded(array)
    if not is_text(value_type):
        entries = [str(entry) for entry in entries]
    if default and "" in entries:
        entries = [entry or default for entry in entries]
    missing = codes < 0
    if missing.any():
        codes = np.where(missing, len(entries), codes)
        entries = [*entries, default]
    return TextColumn.of(entries, codes)


def _hardly_repeats(array: pa.Array) -> bool:
    sample = array.slice(0, SAMPLE_ROWS)
    return len(sample) > 0 and pa.compute.count_distinct(sample).as_py() >= DISTINCT_SHARE * len(sample)


def text_rows(name: str, array: pa.Array) -> list[str] | None:
    """The text of each row, "" where there is none; None when no row has one. As `text_column`."""
    if array.null_count == len(array):
        # Only for the check of the type.
        text_column(name, array.slice(0, 0))
        return None
    column = text_column(name, array)
    entries = column.entries
    return [entries[code] for code in column.codes.tolist()]
