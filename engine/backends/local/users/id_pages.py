"""Pages of user ids: the texts of neighbouring dense ids, joined, and where each ends.

A list of strings would take sixty bytes more for each of them, in small pieces all over the heap that pin the
memory around them.

Stored form: the lengths in bytes, packed (`events.arrays`), then the joined UTF-8, compressed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from engine.backends.local.storage.arrays import Int64s, pack_integers, packed_size, unpack_integers
from engine.backends.local.storage.compression import compressed, decompressed

_MEMORY_BYTES_PER_STORED_BYTE = 4
"""Measured: ids of eight to forty bytes, compressed, beside the bytes themselves and their ends."""


class IdPage:
    """Texts by slot, from 0; "" where there is nobody any more."""

    __slots__ = ("_ends", "_joined")

    def __init__(self) -> None:
        self._joined = b""
        self._ends = np.zeros(1, np.int64)
        """Where the texts end, after a 0."""

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, slot: int) -> str:
        return self._joined[self._ends[slot] : self._ends[slot + 1]].decode()

    def extend(self, texts: Sequence[str]) -> None:
        """Adds texts behind the last slot."""
        encoded = list(map(str.encode, texts))
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._joined = b"".join((self._joined, *encoded))
        self._ends = np.concatenate((self._ends, self._ends[-1] + np.cumsum(lengths)))

    def clear(self, slot: int) -> None:
        """Puts "" into a slot."""
        start, end = self._ends[slot], self._ends[slot + 1]
        self._joined = self._joined[:start] + self._joined[end:]
        self._ends = np.concatenate((self._ends[: slot + 1], self._ends[slot + 1 :] - (end - start)))

    def texts(self, start: int = 0) -> list[str]:
        """All texts from a slot on."""
        ends = self._ends[start:].tolist()
        whole = self._joined.decode()
        if len(whole) == len(self._joined):
            return [whole[at:end] for at, end in itertools.pairwise(ends)]
        return [self._joined[at:end].decode() for at, end in itertools.pairwise(ends)]

    def pack(self) -> bytes:
        """The stored form."""
        return pack_integers(np.diff(self._ends)) + compressed(self._joined)

    @classmethod
    def unpack(cls, stored: memoryview) -> IdPage:
        """The inverse of `pack`. Raises ValueError when the lengths are not those of the texts."""
        page = cls()
        lengths: Int64s = unpack_integers(stored).astype(np.int64)
        page._joined = decompressed(stored[packed_size(stored) :])
        page._ends = np.concatenate((page._ends, np.cumsum(lengths)))
        if page._ends[-1] != len(page._joined):
            raise ValueError(f"{len(page._joined)} bytes instead of {page._ends[-1]}")
        return page


class _IdPages:
    """The codec of page_cache that are pages of ids."""

    def empty(self) -> IdPage:
        return IdPage()

    def decode(self, stored: memoryview) -> IdPage:
        return IdPage.unpack(stored)

    def encode(self, value: IdPage) -> bytes | None:
        return value.pack() if len(value) else None

    def memory_bytes(self, stored_bytes: int) -> int:
        return _MEMORY_BYTES_PER_STORED_BYTE * stored_bytes


ID_PAGE = _IdPages()
