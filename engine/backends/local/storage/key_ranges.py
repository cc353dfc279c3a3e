"""Ranges of keys: how many keys begin with the same bytes, and the sum of their hashes.

A checksum finds a value that is damaged, not a key that is gone or became another one. So every transaction
that makes or deletes a key brings the RANGE record of its range up to date. The first question that meets no
key goes through all keys of the range, without their values, and compares; from then on the range is
*checked*, for as long as the environment is open.

RANGE records are counted in a range of their own, whose record every environment has after its first commit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from engine.backends.local.storage.keys import Family, key, range_bytes_of

_FORM = struct.Struct("<QQ")
_HASH_MASK = (1 << 64) - 1

RANGES = key(Family.RANGE)
"""The range of all RANGE records but its own."""


class KeyCount(NamedTuple):
    """How many keys there are, and the sum of their XXH3-64, modulo 2^64."""

    keys: int = 0
    hashes: int = 0

    def plus(self, keys: int, hashes: int) -> KeyCount:
        """The range with this many more keys."""
        return KeyCount(self.keys + keys, (self.hashes + hashes) & _HASH_MASK)

    def pack(self) -> bytes:
        """The stored form."""
        return _FORM.pack(*self)

    @classmethod
    def unpack(cls, stored: bytes | memoryview) -> KeyCount:
        """The inverse of `pack`."""
        return cls(*_FORM.unpack(stored))


NO_KEYS = KeyCount()


def record_key(range_: bytes) -> bytes:
    """Where the count of a range is stored."""
    return key(Family.RANGE, range_)


ROOT_KEY = record_key(RANGES)


def range_of(stored: bytes) -> bytes | None:
    """The range a key is counted in; None when another record announces it."""
    size = range_bytes_of(stored)
    return None if size is None or stored == ROOT_KEY else stored[:size]


class KeyCounts:
    """Counts of keys by range, of those that pass by."""

    def __init__(self) -> None:
        self._counts: dict[bytes, KeyCount] = {}

    def add(self, stored: bytes, hash_: int | None = None) -> None:
        """Counts a key."""
        range_ = range_of(stored)
        if range_ is not None:
            self.change(range_, 1, xxhash.xxh3_64_intdigest(stored) if hash_ is None else hash_)

    def change(self, range_: bytes, keys: int, hashes: int) -> None:
        """Adds this many keys to a range; fewer when negative."""
        self._counts[range_] = self._counts.get(range_, NO_KEYS).plus(keys, hashes)

    def take(self) -> dict[bytes, KeyCount]:
        """The counts since the last call."""
        counts, self._counts = self._counts, {}
        return counts

    def differences(self, announced: dict[bytes, KeyCount]) -> Iterator[tuple[bytes, KeyCount, KeyCount]]:
        """The ranges of which something else was announced: what was counted, and what was announced."""
        for range_ in sorted(self._counts.keys() | announced.keys()):
            counted, expected = self._counts.get(range_, NO_KEYS), announced.get(range_, NO_KEYS)
            if counted != expected:
                yield range_, counted, expected
