"""Converts Arrow arrays into string columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from engine.event_columns import TextColumn
from milepost.arrays import has_value, integers
from milepost.arrow_types import is_text, is_texts
from service.arrow.layout import unfit
from service.arrow.messages import too_large
from service.limits import IMPORT_BATCH_BYTES_MAX

TEXT_OR_INTEGER = "strings or integers"

SAMPLE_ROWS = 8_192
DISTINCT_SHARE = 0.99
"""Share of distinct values in a sample from which deduplication costs more than it saves."""

Codes = npt.NDArray[np.int64]
"""Index into the entries per row; -1 = no value."""


def decoded(array: pa.Array) -> pa.Array:
    """The array without a dictionary and without views. Raises InvalidInput when it is too large then."""
    if pa.types.is_dictionary(array.type):
        size_bytes = _decoded_bytes(array)
        if size_bytes > IMPORT_BATCH_BYTES_MAX:
            raise too_large(size_bytes, IMPORT_BATCH_BYTES_MAX)
        # Arrow cannot repeat views.
        array = pa.DictionaryArray.from_arrays(array.indices, without_views(array.dictionary))
        array = array.dictionary_decode()
    return without_views(array)


def without_views(array: pa.Array) -> pa.Array:
    """The array with each string materialised, which most Arrow functions need."""
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def _decoded_bytes(array: pa.Array) -> int:
    """Bytes of all strings when materialised; 0 for other types."""
    if not is_texts(array.type):
        return 0
    codes = _codes(array.indices)
    return int(_lengths(array.dictionary)[codes[codes >= 0]].sum())


def viewed_bytes(array: pa.Array) -> int:
    """Bytes of the strings in a view array, all counted, although they may share memory."""
    type_ = array.type
    if pa.types.is_string_view(type_):
        return int(_lengths(array).sum())
    if pa.types.is_dictionary(type_):
        return viewed_bytes(array.dictionary)
    if pa.types.is_union(type_):
        return sum(viewed_bytes(array.field(index)) for index in range(type_.num_fields))
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return viewed_bytes(array.values)
    return 0


def _lengths(texts: pa.Array) -> npt.NDArray[np.int64]:
    """Bytes of each string; undefined for null."""
    if pa.types.is_string_view(texts.type):
        # A view has 16 bytes, of which the first four are the length.
        lengths = np.frombuffer(texts.buffers()[1], "<i4")[::4] if len(texts) else np.zeros(0, np.int64)
        return lengths[texts.offset : texts.offset + len(texts)].astype(np.int64)
    return integers(pa.compute.binary_length(texts)).astype(np.int64)


def coded(array: pa.Array) -> tuple[list[Any], Codes]:
    """Distinct values as Python objects, and a code for each row."""
    if not pa.types.is_dictionary(array.type):
        encoded = decoded(array).dictionary_encode()
        return encoded.dictionary.to_pylist(), _codes(encoded.indices)
    # Not materialised per row: many rows may share a long string.
    dictionary, codes = decoded(array.dictionary), _codes(array.indices)
    if len(dictionary) > len(array):
        has = codes >= 0
        used = np.unique(codes[has])
        dictionary, codes = dictionary.take(pa.array(used)), np.where(has, np.searchsorted(used, codes), -1)
    entries = dictionary.to_pylist()
    distinct = {entry: None for entry in entries if entry is not None}
    if len(distinct) < len(entries):
        # A caller's dictionary may contain duplicates and a null.
        numbers = {entry: number for number, entry in enumerate(distinct)}
        codes = np.array([*(numbers.get(entry, -1) for entry in entries), -1], np.int64)[codes]
    return list(distinct), codes


def _codes(indices: pa.Array) -> Codes:
    codes = integers(indices).astype(np.int64, copy=False)
    return np.where(has_value(indices), codes, -1) if indices.null_count else codes


def text_column(name: str, array: pa.Array, default: str = "") -> TextColumn:
    """A string for each row; `default` where it is missing or empty. Integers are written as decimals.

    Raises InvalidInput when the type is neither.
    """
    array = without_views(array)
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
    """The string of each row, "" where missing; None when no row has one. As `text_column`."""
    if array.null_count == len(array):
        # Called only to check the type.
        text_column(name, array.slice(0, 0))
        return None
    column = text_column(name, array)
    entries = column.entries
    return [entries[code] for code in column.codes.tolist()]
