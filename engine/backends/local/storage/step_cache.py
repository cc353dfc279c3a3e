"""The step cache: answers of whole steps, kept between executions.

A user edits one criterion of ten and asks again: the other nine are answered from here. An entry names the
data it was computed from by *read keys*. Every write touches the keys of the data it changes, which
invalidates entries computed before.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TypeAlias

from pyroaring import BitMap

from engine.bounded_cache import BoundedCache

ReadKey: TypeAlias = tuple[object, ...]
"""("field", field, group), ("belongs", input, group), ("seen", input, group), ("users", group) or ("events",
input, name, group). In the last one, name may be `ANY_NAME`.
"""

ANY_NAME = 0

CachedSets: TypeAlias = "BoundedCache[tuple[int, int, bytes], tuple[int, BitMap]]"
"""By cache, group and encoded step: a set, and the clock of its cache when its computation began."""

Instant: TypeAlias = tuple[int, int]
"""Number and clock of a cache."""

ENTRY_OVERHEAD_BYTES = 400

_numbers = itertools.count()


class StepCache:
    """Sets of users of one account by (group, encoded step). Call with the state lock held."""

    def __init__(self, sets: CachedSets) -> None:
        self._clock = 0
        self._touched: dict[ReadKey, int] = {}
        self._sets = sets
        self._number = next(_numbers)

    def touch(self, keys: Iterable[ReadKey]) -> None:
        """Invalidates entries that read these keys."""
        self._clock += 1
        clock = self._clock
        for read_key in keys:
            self._touched[read_key] = clock

    def find(self, group: int, step: bytes, reads: Iterable[ReadKey]) -> BitMap | None:
        """The set, if its data has not changed. Do not modify the result."""
        found = self._sets.get((self._number, group, step))
        if found is None:
            return None
        computed, users = found
        touched = self._touched
        if any(touched.get(read_key, 0) > computed for read_key in reads):
            self._sets.drop((self._number, group, step))
            return None
        return users

    def instant(self) -> Instant:
        """The current instant: what is computed from now on does not see later changes for certain."""
        return self._number, self._clock

    def add(self, group: int, step: bytes, users: BitMap, spread: int, began: Instant) -> None:
        """Adds a set whose computation began at that instant. `spread`: number of ids in its group."""
        number, clock = began
        if number != self._number:
            return
        size = min(2 * len(users), spread // 8) + len(step) + ENTRY_OVERHEAD_BYTES
        self._sets.put((number, group, step), (clock, users), size)

    def clear(self) -> None:
        """Clears the cache, after a user was erased or became an alias."""
        # Sets of the former number are found no more and are the next to be dropped.
        self._number = next(_numbers)
        self._touched.clear()
