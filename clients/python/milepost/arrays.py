"""Reads Arrow arrays as numpy arrays, directly from their buffers.

Arrow's own conversion fills nulls first, and loads pandas (40 MB of memory) where that is installed.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute

from milepost.arrow_types import is_text

Mask = npt.NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)


def has_value(array: pa.Array) -> Mask:
    """A mask that is false for null."""
    return truth(array.is_valid()) if array.null_count else np.ones(len(array), np.bool_)


def truth(bools: pa.Array) -> Mask:
    """The bools; false for null."""
    found: Mask = items(bools.cast(pa.uint8()), np.uint8) != 0
    return found & has_value(bools) if bools.null_count else found


def is_filled(array: pa.Array) -> Mask:
    """A mask that is false for null and for empty strings."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type):
        array = array.cast(pa.large_string())
    filled = has_value(array)
    return filled & (integers(pa.compute.binary_length(array)) != 0) if is_text(array.type) else filled


def items(array: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """The items of an array whose type has the same form as `dtype`; undefined for null."""
    if not len(array):
        return np.zeros(0, dtype)
    whole: npt.NDArray[Number] = np.frombuffer(array.buffers()[1], dtype)
    return whole[array.offset : array.offset + len(array)]


def integers(array: pa.Array) -> npt.NDArray[Any]:
    """The items of an array of integers, wide enough for all: unsigned if they are of 64 bits."""
    if pa.types.is_uint64(array.type):
        return items(array, np.uint64)
    return items(array.cast(pa.int64()), np.int64)


def first_bytes(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """The first byte of each string; undefined for null and empty strings."""
    wide = pa.types.is_large_string(texts.type)
    _, offsets, data = texts.buffers()
    if data is None or not data.size or not len(texts):
        return np.zeros(len(texts), np.uint8)
    starts = np.frombuffer(offsets, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts)]
    everything = np.frombuffer(data, np.uint8)
    found: npt.NDArray[np.uint8] = everything[np.minimum(starts, data.size - 1)]
    return found
