"""Roaring bitmaps from and to numpy arrays.

Building a bitmap of half a million ids from an array takes milliseconds; packing the mask's bits and putting
the header of the portable Roaring format in front (RoaringFormatSpec: cookie 12346, containers of 2^16 ids,
arrays of u16 up to 4,096 ids, else 8 KiB of bits) takes a twentieth of one.
"""

from __future__ import annotations

import array
import itertools
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

_COOKIE_NO_RUNS = 12346
_CONTAINER_IDS = 1 << 16
_CONTAINER_BYTES = _CONTAINER_IDS // 8
_ARRAY_IDS_MAX = 4_096
_HEAD_BYTES = 8
_BYTES_PER_CONTAINER = 8
"""In the header: key, size and offset."""


def bitmap_of_mask(mask: npt.NDArray[np.bool_]) -> BitMap:
    """The set of positions at which `mask` is true."""
    described: list[int] = []
    containers: list[bytes] = []
    for start in range(0, len(mask), _CONTAINER_IDS):
        piece = mask[start : start + _CONTAINER_IDS]
        size = int(np.count_nonzero(piece))
        if not size:
            continue
        described += (start >> 16, size - 1)
        if size <= _ARRAY_IDS_MAX:
            containers.append(piece.nonzero()[0].astype("<u2").tobytes())
        else:
            bits = np.packbits(piece, bitorder="little").tobytes()
            containers.append(bits.ljust(_CONTAINER_BYTES, b"\0"))
    if not containers:
        return BitMap(optimize=False)
    count = len(containers)
    first = _HEAD_BYTES + _BYTES_PER_CONTAINER * count
    offsets = itertools.accumulate(map(len, containers[:-1]), initial=first)
    head = struct.pack(f"<II{2 * count}H{count}I", _COOKIE_NO_RUNS, count, *described, *offsets)
    return BitMap.deserialize(head + b"".join(containers))


def bitmap_of(ids: npt.NDArray[np.integer[Any]]) -> BitMap:
    """The set of these ids, fast when they are sorted."""
    return BitMap(array.array("I", ids.astype(np.uint32, copy=False).tobytes()), optimize=False)


def ids_of(bitmap: BitMap) -> npt.NDArray[np.uint32]:
    """The ids of a set, sorted."""
    return np.frombuffer(bitmap.to_array(), np.uint32)
