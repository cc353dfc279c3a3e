"""Compression of stored values: Zstandard where it shrinks the bytes, otherwise the bytes themselves.

It uses the fastest level. Level 3 saves only 1 to 2 % more here, and a part is written many times before its
last merge.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

ZSTD_LEVEL = 1
COMPRESSED_BYTES_MIN = 64
"""Bytes below which compression is not tried: its frame takes a dozen bytes."""

SAMPLED_ITEMS = 2_048
"""Items above which a sample decides the form of an array. Shorter arrays are compressed in every form."""

FEW_ITEMS_MAX = 2_048
"""Items up to which their planes are transposed in one call."""
_WIDE_BYTES = 8
"""Size of items whose planes are written byte by byte; those of smaller ones are shifted into place."""

_PLAIN, _ZSTD, _PLANES = range(3)
"""Forms, on disk: raw, compressed, and compressed by planes of bytes."""


class _Contexts(threading.local):
    """Compression contexts are expensive to create and serve one thread at a time."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_contexts = _Contexts()


def compressed(data: bytes) -> bytes:
    """The stored form: one byte for the form, then the data."""
    if len(data) >= COMPRESSED_BYTES_MIN:
        shrunk = _contexts.compress(data)
        if len(shrunk) < len(data):
            return bytes((_ZSTD,)) + shrunk
    return bytes((_PLAIN,)) + data


def decompressed(stored: bytes | memoryview) -> bytes:
    """The inverse of `compressed`."""
    form, body = stored[0], memoryview(stored)[1:]
    return bytes(body) if form == _PLAIN else _contexts.decompress(body)


def compressed_items(items: npt.NDArray[Any]) -> tuple[int, bytes]:
    """The chosen form of an array, and its bytes.

    By planes: all first bytes of the items, then all second bytes, and so on. Sorted or small numbers agree
    in their high bytes and differ in the low ones, which do not compress. Runs of equal items compress better
    without planes. For long arrays a sample from the middle decides.
    """
    if items.nbytes < COMPRESSED_BYTES_MIN:
        return _PLAIN, items.tobytes()
    forms = [_ZSTD] if items.itemsize == 1 else [_ZSTD, _PLANES]
    if len(forms) > 1 and len(items) > SAMPLED_ITEMS:
        first = (len(items) - SAMPLED_ITEMS) // 2
        sample = items[first : first + SAMPLED_ITEMS]
        forms = [min(forms, key=lambda form: len(_shrunk(sample, form)))]
    form, shrunk = min(((form, _shrunk(items, form)) for form in forms), key=lambda made: len(made[1]))
    return (form, shrunk) if len(shrunk) < items.nbytes else (_PLAIN, items.tobytes())


def _shrunk(items: npt.NDArray[Any], form: int) -> bytes:
    if form == _PLANES:
        items = np.ascontiguousarray(items.view(np.uint8).reshape(-1, items.itemsize).T)
    return _contexts.compress(items.tobytes())


def decompressed_items(form: int, stored: memoryview, dtype: np.dtype[Any], count: int) -> npt.NDArray[Any]:
    """The inverse of `compressed_items`, as a writable copy that outlives `stored`."""
    if form == _PLAIN:
        return np.frombuffer(stored, dtype, count).copy()
    data = bytearray(_contexts.decompress(stored)) if form == _ZSTD else _contexts.decompress(stored)
    if form == _ZSTD:
        return np.frombuffer(data, dtype, count)
    return _of_planes(np.frombuffer(data, np.uint8).reshape(dtype.itemsize, count), dtype)


def _of_planes(planes: npt.NDArray[np.uint8], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The items whose bytes are in these planes. Transposing takes numpy several times as long where they are
    many.
    """
    if planes.shape[1] <= FEW_ITEMS_MAX:
        return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
    if dtype.itemsize < _WIDE_BYTES:
        items: npt.NDArray[Any] = planes[0].astype(dtype)
        for number, plane in enumerate(planes[1:], 1):
            items |= np.left_shift(plane, dtype.type(8 * number), dtype=dtype)
        return items
    columns = np.zeros(planes.shape[::-1], np.uint8)
    for number, plane in enumerate(planes):
        # The high bytes of most numbers are zero.
        if plane.any():
            columns[:, number] = plane
    return columns.reshape(-1).view(dtype)
