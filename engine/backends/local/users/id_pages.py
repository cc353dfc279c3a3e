"""Pages of user ids: the ids of neighbouring dense ids as one joined text, and where each ends.

A list of strings would take sixty bytes more for each id, scattered over the heap.

Stored form: the packed byte lengths (`events.arrays`), then the joined UTF-8, compressed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from engine.backends.local.storage.arrays import Int64s, pack_integers, packed_size, unpack_integers
from engine.backends.local.storage.compression import compressed, decompressed

TAIL_IDS_MAX = 256
"""Ids of a page that are not joined yet: joining copies the whole page, and most batches bring a few ids."""

_MEMORY_BYTES_PER_STORED_BYTE = 4
"""Memory of a page per stored byte, measured with ids of 8 to 40 bytes."""


class IdPage:
    """Ids by slot, from 0; "" for an erased user."""

    __slots__ = ("_ends", "_joined", "_tail")

    def __init__(self) -> None:
        self._joined = b""
        self._ends = np.zeros(1, np.int64)
        """End offset of each joined id, after a leading 0."""
        self._tail: list[bytes] = []
        """The last ids, which are not joined yet."""

    def __len__(self) -> int:
        return len(self._ends) - 1 + len(self._tail)

    def __getitem__(self, slot: int) -> str:
        after_joined = slot - (len(self._ends) - 1)
        if after_joined >= 0:
            return self._tail[after_joined].decode()
        return self._joined[self._ends[slot] : self._ends[slot + 1]].decode()

    def extend(self, texts: Sequence[str]) -> None:
        """Appends ids after the last slot."""
        self._tail += map(str.encode, texts)
        if len(self._tail) > TAIL_IDS_MAX:
            self._join()

    def _join(self) -> None:
        """Joins the last ids."""
        if self._tail:
            lengths = np.fromiter(map(len, self._tail), np.int64, len(self._tail))
            self._joined = b"".join((self._joined, *self._tail))
            self._ends = np.concatenate((self._ends, self._ends[-1] + np.cumsum(lengths)))
            self._tail = []

    def clear(self, slot: int) -> None:
        """Clears a slot to ""."""
        self._join()
        start, end = self._ends[slot], self._ends[slot + 1]
        self._joined = self._joined[:start] + self._joined[end:]
        self._ends[slot + 1 :] -= end - start

    def texts(self, start: int = 0) -> list[str]:
        """All ids from a slot on."""
        self._join()
        ends = self._ends[start:].tolist()
        whole = self._joined.decode()
        if len(whole) == len(self._joined):
            return [whole[at:end] for at, end in itertools.pairwise(ends)]
        return [self._joined[at:end].decode() for at, end in itertools.pairwise(ends)]

    def joined(self, start: int, end: int) -> tuple[bytes, Int64s]:
        """The ids from a slot to before another, one after the other in UTF-8, and where each ends, after a
        leading 0.
        """
        self._join()
        ends = self._ends[start : end + 1]
        return self._joined[ends[0] : ends[-1]], ends - ends[0]

    def pack(self) -> bytes:
        """The stored form."""
        self._join()
        return pack_integers(np.diff(self._ends)) + compressed(self._joined)

    @classmethod
    def unpack(cls, stored: memoryview) -> IdPage:
        """The inverse of `pack`. Raises ValueError when the lengths do not match the text."""
        page = cls()
        lengths: Int64s = unpack_integers(stored).astype(np.int64)
        page._joined = decompressed(stored[packed_size(stored) :])
        page._ends = np.concatenate((page._ends, np.cumsum(lengths)))
        if page._ends[-1] != len(page._joined):
            raise ValueError(f"{len(page._joined)} bytes instead of {page._ends[-1]}")
        return page


class _IdPages:
    """The page cache codec for pages of ids."""

    def empty(self) -> IdPage:
        return IdPage()

    def decode(self, stored: memoryview) -> IdPage:
        return IdPage.unpack(stored)

    def encode(self, value: IdPage) -> bytes | None:
        return value.pack() if len(value) else None

    def memory_bytes(self, stored_bytes: int) -> int:
        return _MEMORY_BYTES_PER_STORED_BYTE * stored_bytes


ID_PAGE = _IdPages()
