"""Roaring bitmaps from and to numpy arrays.

Building a bitmap of half a million ids from an array takes milliseconds; packing the mask's bits and putting
the header of the portable Roaring format in front (RoaringFormatSpec: cookie 12346, containers of 2^16 ids,
arrays of u16 up to 4,096 ids, else 8 KiB of bits) takes a twentieth of one.
"""

from __future__ import annotations

import array
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Bools

_COOKIE_NO_RUNS = 12346
CONTAINER_IDS = 1 << 16
"""Ids of a container: a set is shifted by as many without being looked at."""
_CONTAINER_BYTES = CONTAINER_IDS // 8
_WORD_BYTES = 8
_ARRAY_IDS_MAX = 4_096
_HEAD = struct.Struct("<II")
_HEAD_BYTES = _HEAD.size
_DESCRIBED = struct.Struct("<HH")
_BYTES_PER_CONTAINER = 8
"""In the header: key, size and offset."""


def bitmap_of_mask(mask: Bools) -> BitMap:
    """The set of positions at which `mask` is true."""
    return bitmap_of_pieces((mask,))


def bitmap_of_pieces(masks: Iterable[Bools]) -> BitMap:
    """The set of positions at which masks, one after the other, are true. Each but the last has a multiple of
    `CONTAINER_IDS` entries.
    """
    described: list[tuple[int, int]] = []
    content: list[bytes] = []
    first = 0
    for mask in masks:
        starts = range(0, len(mask), CONTAINER_IDS)
        # To count in bits takes less, but more calls.
        bits = np.packbits(mask, bitorder="little") if len(starts) > 1 else None
        sizes = [int(np.count_nonzero(mask))] if bits is None else _sizes(bits)
        for number, (start, size) in enumerate(zip(starts, sizes, strict=False), first):
            if not size:
                continue
            described.append((number, size - 1))
            piece = mask[start : start + CONTAINER_IDS]
            if size <= _ARRAY_IDS_MAX:
                content.append(piece.nonzero()[0].astype("<u2").tobytes())
                continue
            if bits is None:
                packed = np.packbits(piece, bitorder="little")
            else:
                packed = bits[start // 8 : start // 8 + _CONTAINER_BYTES]
            content.append(packed.tobytes().ljust(_CONTAINER_BYTES, b"\0"))
        first += len(starts)
    return _of_containers(described, content)


def _sizes(bits: npt.NDArray[np.uint8]) -> list[int]:
    """The number of bits that are set in each container."""
    if len(bits) % _WORD_BYTES:
        bits = np.concatenate((bits, np.zeros(-len(bits) % _WORD_BYTES, np.uint8)))
    counts = np.bitwise_count(bits.view(np.uint64))
    starts = np.arange(0, len(counts), _CONTAINER_BYTES // _WORD_BYTES)
    sizes: list[int] = np.add.reduceat(counts, starts, dtype=np.int64).tolist()
    return sizes


def joined_stored(pieces: Iterable[tuple[int, bytes]]) -> BitMap:
    """The union of serialised sets, each shifted by a number of containers. They come in order and do not
    overlap. To join them as bytes takes a fraction of the time of a set operation for each.
    """
    described: list[tuple[int, int]] = []
    content: list[bytes] = []
    others: list[BitMap] = []
    for first, stored in pieces:
        cookie, count = _HEAD.unpack_from(stored)
        if cookie != _COOKIE_NO_RUNS:
            others.append(BitMap.deserialize(stored).shift(first * CONTAINER_IDS))
            continue
        if count == 1:
            number, more = _DESCRIBED.unpack_from(stored, _HEAD_BYTES)
            described.append((first + number, more))
        else:
            numbers = struct.unpack_from(f"<{2 * count}H", stored, _HEAD_BYTES)
            described += zip((first + number for number in numbers[::2]), numbers[1::2], strict=True)
        content.append(stored[_HEAD_BYTES + _BYTES_PER_CONTAINER * count :])
    users = _of_containers(described, content)
    for other in others:
        users |= other
    return users


def _of_containers(described: Sequence[tuple[int, int]], content: Sequence[bytes]) -> BitMap:
    """The set of these containers: the number and the size less 1 of each, and their content, joined."""
    if not described:
        return BitMap(optimize=False)
    count = len(described)
    sizes = (2 * (more + 1) if more < _ARRAY_IDS_MAX else _CONTAINER_BYTES for _, more in described[:-1])
    offsets = itertools.accumulate(sizes, initial=_HEAD_BYTES + _BYTES_PER_CONTAINER * count)
    head = struct.pack(
        f"<II{2 * count}H{count}I", _COOKIE_NO_RUNS, count, *itertools.chain(*described), *offsets
    )
    return BitMap.deserialize(b"".join((head, *content)))


def bitmap_of(ids: npt.NDArray[np.integer[Any]]) -> BitMap:
    """The set of these ids, fast when they are sorted."""
    return BitMap(array.array("I", ids.astype(np.uint32, copy=False).tobytes()), optimize=False)


def ids_of(bitmap: BitMap) -> npt.NDArray[np.uint32]:
    """The ids of a set, sorted."""
    return np.frombuffer(bitmap.to_array(), np.uint32)
