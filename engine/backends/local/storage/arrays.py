"""Integer arrays: the packed form, and operations on sorted rows.

Packed form: dtype code u8, form u8 (`engine.backends.local.storage.compression`), two zero bytes, count u32,
length in bytes of the rest u32, `base` and `unit` (i64 each), then the items, little-endian. Item i stands
for base + unit × stored[i].
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.compression import compressed_items, decompressed_items
from engine.values import MICROS_PER_SECOND

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.integer[Any]]
Int64s: TypeAlias = npt.NDArray[np.int64]
Uint32s: TypeAlias = npt.NDArray[np.uint32]
Floats: TypeAlias = npt.NDArray[np.float64]
Positions: TypeAlias = npt.NDArray[np.int64]
"""Positions of rows in a part, ascending."""

_HEADER = struct.Struct("<BBxxIIqq")
_DTYPES = tuple(np.dtype(name) for name in ("u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8"))
_WIDEST = _DTYPES[3]
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_UNSIGNED = tuple((int(np.iinfo(dtype).max), dtype) for dtype in _DTYPES[:4])
_SIGNED = tuple((int(np.iinfo(dtype).max), dtype) for dtype in _DTYPES[4:])

TIME_UNITS = (MICROS_PER_SECOND, MICROS_PER_SECOND // 1_000)
"""Time resolutions of senders: a unit that all times of a column share is divided out."""


def smallest(values: Ints) -> Ints:
    """The same integers in the smallest type that holds them."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    for limit, dtype in _UNSIGNED if low >= 0 else _SIGNED:
        if high <= limit and low >= -limit - 1:
            return values.astype(dtype, copy=False)
    raise OverflowError(f"no integer type holds {low} to {high}")


def pack_integers(values: Ints, *, rebase: bool = False, units: tuple[int, ...] = ()) -> bytes:
    """The packed form. With `rebase` the least value is subtracted, and the first of `units` that divides
    every difference is divided out.
    """
    base, unit = 0, 1
    if rebase and len(values):
        base = int(values.min())
        values = values.astype(np.int64) - base
        unit = next((unit for unit in units if not (values % unit).any()), 1)
        values = values // unit
    stored = smallest(values)
    form, items = compressed_items(stored)
    return _HEADER.pack(_CODES[stored.dtype], form, len(stored), len(items), base, unit) + items


def packed_size(data: memoryview) -> int:
    """Length in bytes of the packed array at the start of `data`."""
    _, _, _, following, _, _ = _HEADER.unpack_from(data)
    return int(_HEADER.size + following)


def unpack_integers(data: memoryview) -> Ints:
    """The inverse of `pack_integers`, as a copy that outlives `data`. int64 when it was rebased, else the
    stored type.
    """
    code, form, count, following, base, unit = _HEADER.unpack_from(data)
    items = data[_HEADER.size : _HEADER.size + following]
    stored: Ints = decompressed_items(form, items, _DTYPES[code], count)
    if base == 0 and unit == 1:
        return stored
    # In place: memory that is new to the process takes longer than the arithmetic.
    values: Int64s = stored.view("<i8") if stored.dtype == _WIDEST else stored.astype(np.int64)
    if unit != 1:
        values *= unit
    values += base
    return values


def sort_order(*keys: Ints) -> Positions:
    """The positions of rows sorted by the keys, most significant key first. The sort is stable. The values of
    a key span less than 2^63.
    """
    # One key of 63 bits sorts in half the time of two, and faster where runs are sorted already.
    packed, is_whole = _packed_keys(keys)
    order = np.argsort(packed, kind="stable")
    if not is_whole:
        _sort_ties(order, packed[order], keys)
    return order


def _packed_keys(keys: Sequence[Ints]) -> tuple[Int64s, bool]:
    """One integer per row that sorts like the keys, and whether it holds all of them. When the keys do not
    fit, their lowest bits are dropped.
    """
    packed = np.zeros(len(keys[0]), np.int64)
    if not len(packed):
        return packed, True
    room = _PACKED_BITS_MAX
    for key in keys:
        low, high = int(key.min()), int(key.max())
        width = (high - low).bit_length()
        offsets = key.astype(np.int64, copy=False) - low
        if width > room:
            packed <<= room
            packed |= offsets >> (width - room)
            return packed, False
        packed <<= width
        packed |= offsets
        room -= width
    return packed, True


def _sort_ties(order: Positions, packed: Int64s, keys: Sequence[Ints]) -> None:
    """Sorts rows with equal packed keys (given in `order`) by their full keys."""
    tied = packed[1:] == packed[:-1]
    in_tie = np.zeros(len(order), np.bool_)
    in_tie[1:] = tied
    in_tie[:-1] |= tied
    positions = np.flatnonzero(in_tie)
    rows = order[positions]
    order[positions] = rows[np.lexsort([key[rows] for key in reversed(keys)])]


def sorted_distinct(values: Int64s) -> Int64s:
    """The distinct values, sorted. Fast for values in sorted stretches, as parts have them."""
    values = np.sort(values, kind="stable")
    return values[runs(values)[:-1]]


def runs(values: Ints) -> Int64s:
    """Start of each run of equal neighbours, followed by the length of `values`."""
    if not len(values):
        return np.zeros(1, np.int64)
    changes = np.flatnonzero(values[1:] != values[:-1]) + 1
    return np.concatenate((_ZERO, changes, np.array([len(values)])))


def ranges(starts: Int64s, lengths: Int64s) -> Positions:
    """The concatenation of start, start + 1, … for each range."""
    total = int(lengths.sum())
    shifts = starts - np.concatenate((_ZERO, np.cumsum(lengths)[:-1])) if len(starts) else starts
    return np.repeat(shifts, lengths) + np.arange(total)


def find_sorted(haystack: Ints, needles: Ints) -> tuple[Positions, Positions]:
    """Positions of needles that occur in a sorted haystack of distinct values: in the needles, and in the
    haystack.
    """
    if not len(haystack) or not len(needles):
        return _EMPTY, _EMPTY
    positions = np.searchsorted(haystack, needles)
    positions[positions == len(haystack)] = 0
    found = np.flatnonzero(haystack[positions] == needles)
    return found, positions[found]


def apply_at(operation: np.ufunc, results: npt.NDArray[Any], slots: Ints, values: npt.ArrayLike) -> None:
    """Replaces the result at each slot by that of the operation on it and the slot's value, value by value.
    One value serves all slots. No result may exceed its type.
    """
    # Several times as slow with an index, or values, of other types.
    operation.at(results, slots.astype(np.intp, copy=False), np.asarray(values, results.dtype))


_PACKED_BITS_MAX = 63

_ZERO = np.zeros(1, np.int64)
_EMPTY = np.zeros(0, np.int64)
