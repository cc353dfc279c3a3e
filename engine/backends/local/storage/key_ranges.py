"""Ranges of keys: the number of keys that begin with the same bytes, and the sum of their hashes.

A checksum detects a damaged value, but not a missing or altered key. So every transaction that creates or
deletes a key updates the RANGE record of its range. The first lookup that finds no key reads all keys of the
range, without their values, and compares. From then on the range is *checked*, for as long as the environment
is open.

RANGE records are counted in their own range, whose record every environment has after its first commit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import xxhash

from engine.backends.local.storage.keys import Family, key, range_bytes_of

_FORM = struct.Struct("<QQ")
_HASH_MASK = (1 << 64) - 1

RANGES = key(Family.RANGE)
"""The range of all RANGE records but this one's own."""


class KeyCount(NamedTuple):
    """Number of keys, and the sum of their XXH3-64 modulo 2^64."""

    keys: int = 0
    hashes: int = 0

    def plus(self, keys: int, hashes: int) -> KeyCount:
        """The range with this many keys added."""
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
    """The key of a range's record."""
    return key(Family.RANGE, range_)


ROOT_KEY = record_key(RANGES)


def range_of(stored: bytes) -> bytes | None:
    """The range a key is counted in; None when another record announces the key."""
    size = range_bytes_of(stored)
    return None if size is None or stored == ROOT_KEY else stored[:size]


class KeyCounts:
    """Counts keys by range."""

    def __init__(self) -> None:
        self._counts: dict[bytes, KeyCount] = {}

    def add(self, stored: bytes, hash_: int | None = None) -> None:
        """Counts a key."""
        range_ = range_of(stored)
        if range_ is not None:
            self.change(range_, 1, xxhash.xxh3_64_intdigest(stored) if hash_ is None else hash_)

    def add_ordered(self, keys: Sequence[bytes]) -> None:
        """Counts keys that are in order, where those of a range follow each other."""
        if not keys:
            return
        first, last = range_of(keys[0]), range_of(keys[-1])
        # Between two keys of a range there are only keys of that range, except the record of all ranges.
        if first is not None and first == last and first != RANGES:
            self.change(first, len(keys), sum(map(xxhash.xxh3_64_intdigest, keys)))
            return
        for range_, found in groupby(keys, range_of):
            some = [*found]
            if range_ is not None:
                self.change(range_, len(some), sum(map(xxhash.xxh3_64_intdigest, some)))

    def change(self, range_: bytes, keys: int, hashes: int) -> None:
        """Adds this many keys to a range; removes them when negative."""
        self._counts[range_] = self._counts.get(range_, NO_KEYS).plus(keys, hashes)

    def take(self) -> dict[bytes, KeyCount]:
        """The counts since the last call."""
        counts, self._counts = self._counts, {}
        return counts

    def differences(self, announced: dict[bytes, KeyCount]) -> Iterator[tuple[bytes, KeyCount, KeyCount]]:
        """Ranges that differ from their record: what was counted, and what was announced."""
        for range_ in sorted(self._counts.keys() | announced.keys()):
            counted, expected = self._counts.get(range_, NO_KEYS), announced.get(range_, NO_KEYS)
            if counted != expected:
                yield range_, counted, expected
