"""Arrow arrays as numpy arrays, read from their buffers.

Arrow's own way into numpy fills nulls first, and loads pandas, 40 MB of memory, where that is installed.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Number = TypeVar("Number", bound=np.generic)


def has_value(array: pa.Array) -> Mask:
    """False where there is null."""
    return truth(array.is_valid()) if array.null_count else np.ones(len(array), np.bool_)


def truth(bools: pa.Array) -> Mask:
    """The bools; false where there is null."""
    found: Mask = items(bools.cast(pa.uint8()), np.uint8) != 0
    return found & has_value(bools) if bools.null_count else found


def items(array: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """The items of an array whose type has the same form as `dtype`; anything where there is null."""
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
    """The first byte of each text of an array of strings; any byte where there is null or no text."""
    wide = pa.types.is_large_string(texts.type)
    _, offsets, data = texts.buffers()
    if data is None or not data.size or not len(texts):
        return np.zeros(len(texts), np.uint8)
    starts = np.frombuffer(offsets, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts)]
    everything = np.frombuffer(data, np.uint8)
    found: npt.NDArray[np.uint8] = everything[np.minimum(starts, data.size - 1)]
    return found
