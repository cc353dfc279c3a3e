"""The step cache: answers of whole steps, kept between executions.

A user edits one criterion of ten and asks again: the other nine are answered from here. An entry names the
data it was computed from by *read keys*. Every write touches the keys of the data it changes, which
invalidates entries computed before.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from pyroaring import BitMap

ReadKey: TypeAlias = tuple[object, ...]
"""("field", field, group), ("belongs", input, group), ("seen", input, group), ("users", group) or ("events",
input, name, group). In the last one, name may be `ANY_NAME`.
"""

ANY_NAME = 0

STEP_CACHE_BYTES_DEFAULT = 32 << 20
ENTRY_OVERHEAD_BYTES = 400


class StepCache:
    """Sets of users by (group, encoded step). Call with the state lock held."""

    def __init__(self, bytes_max: int = STEP_CACHE_BYTES_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._clock = 0
        self._touched: dict[ReadKey, int] = {}
        self._entries: dict[tuple[int, bytes], tuple[int, int, BitMap]] = {}

    def touch(self, keys: Iterable[ReadKey]) -> None:
        """Invalidates entries that read these keys."""
        self._clock += 1
        clock = self._clock
        for read_key in keys:
            self._touched[read_key] = clock

    def find(self, group: int, step: bytes, reads: Iterable[ReadKey]) -> BitMap | None:
        """The set, if its data has not changed. Do not modify the result."""
        entry = self._entries.pop((group, step), None)
        if entry is None:
            return None
        computed, size, users = entry
        touched = self._touched
        if any(touched.get(read_key, 0) > computed for read_key in reads):
            self._bytes -= size
            return None
        self._entries[group, step] = entry  # moves it to the end, away from eviction
        return users

    def add(self, group: int, step: bytes, users: BitMap, spread: int) -> None:
        """Adds a set computed from the current data. `spread`: number of ids in its group."""
        size = min(2 * len(users), spread // 8) + len(step) + ENTRY_OVERHEAD_BYTES
        before = self._entries.pop((group, step), None)
        self._entries[group, step] = (self._clock, size, users)
        self._bytes += size - (0 if before is None else before[1])
        while self._bytes > self._bytes_max and self._entries:
            self._bytes -= self._entries.pop(next(iter(self._entries)))[1]

    def clear(self) -> None:
        """Clears the cache, after a user was erased or became an alias."""
        self._entries.clear()
        self._touched.clear()
        self._bytes = 0
