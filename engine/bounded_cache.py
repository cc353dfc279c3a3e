"""Caches of bounded memory: the least recently used values are dropped.

A cache of what callers send is bounded in bytes, not in values: a criterion may have a hundred bytes or
several megabytes.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

K = TypeVar("K")
V = TypeVar("V")

BYTES_PER_ENCODED_BYTE = 5
BYTES_PER_VALUE = 350
"""Memory of a plan or a test with everything derived from it, measured on `in` lists of ten thousand strings,
numbers and times: so much for each byte of its encoding and for each value in it.
"""


class BoundedCache(Generic[K, V]):
    """Values with their sizes in bytes, up to a total size. At least the newest value is kept. Safe to call
    from several threads.
    """

    live: ClassVar[weakref.WeakSet[BoundedCache[Any, Any]]] = weakref.WeakSet()
    """Every cache of the process, for figures of memory."""

    def __init__(self, name: str, bytes_max: int) -> None:
        self.name = name
        self.bytes_max = bytes_max
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.RLock()
        self.nbytes = 0
        """Total size of the values."""
        self.live.add(self)

    def __len__(self) -> int:
        return len(self._held)

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def limit(self, bytes_max: int) -> None:
        """Sets the largest total size. It applies from the next value on."""
        self.bytes_max = bytes_max

    def get(self, key: K) -> V | None:
        """The value, or None."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            self._held.move_to_end(key)
            return held[0]

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Adds or replaces a value and drops others when they are too large together."""
        with self._lock:
            self.drop(key)
            self._held[key] = (value, nbytes)
            self.nbytes += nbytes
            while self.nbytes > self.bytes_max and len(self._held) > 1:
                self.nbytes -= self._held.popitem(last=False)[1][1]

    def peek(self, key: K) -> V | None:
        """The value, or None. Does not count as a use."""
        held = self._held.get(key)
        return None if held is None else held[0]

    def has(self, key: K) -> bool:
        """Whether there is a value. Does not count as a use."""
        return key in self._held

    def has_room(self, nbytes: int) -> bool:
        """Whether a new value of that size drops no other."""
        return self.nbytes + nbytes <= self.bytes_max

    def drop(self, key: K) -> None:
        """Drops a value."""
        with self._lock:
            held = self._held.pop(key, None)
            if held is not None:
                self.nbytes -= held[1]

    def clear(self) -> None:
        """Drops all values."""
        with self._lock:
            self._held.clear()
            self.nbytes = 0


def held_bytes(encoded_bytes: int, content: object) -> int:
    """Approximate memory of a plan, a test or a tree of milestones, and of what is derived from it, by the
    length of its encoding and the number of values in it.
    """
    return BYTES_PER_ENCODED_BYTE * encoded_bytes + BYTES_PER_VALUE * _values_in(content)


def _values_in(content: object) -> int:
    if isinstance(content, msgspec.Struct):
        return 1 + sum(_values_in(getattr(content, field)) for field in content.__struct_fields__)
    if isinstance(content, tuple | list):
        parts = [each for each in content if isinstance(each, _COMPOSED)]
        return 1 + len(content) - len(parts) + sum(map(_values_in, parts))
    return 1


_COMPOSED = (msgspec.Struct, tuple, list)
