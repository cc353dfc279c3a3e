"""The term dictionary: the distinct strings of a field, in memory.

A string test that is no lookup must look at every distinct value. Scanning a million index keys takes about a
second; searching the same strings joined into one takes milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

VOCABULARY_BYTES_DEFAULT = 64 * 1024 * 1024
"""Strings of all fields of an account kept in memory."""

# Not a byte of UTF-8, so no literal matches across two strings.
_BETWEEN = b"\xff"


class TermDictionary:
    """Strings joined into one, and the strings added since, apart."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._joined = _BETWEEN + b"".join(text + _BETWEEN for text in texts)
        self._later: list[bytes] = []

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        return len(self._joined) + sum(len(text) for text in self._later)

    @property
    def is_scattered(self) -> bool:
        """Whether rejoining pays: many strings were added since."""
        return len(self._later) > len(self._joined) // 256 + 64

    def add(self, texts: Iterable[bytes]) -> None:
        """Adds strings. A string that is already present is then returned twice."""
        self._later.extend(texts)

    def containing(self, literal: bytes) -> Iterator[bytes]:
        """The strings that contain the literal, in no particular order."""
        yield from self._joined_containing(literal) if literal else self._all_joined()
        yield from (text for text in self._later if literal in text)

    def _all_joined(self) -> list[bytes]:
        return self._joined[1:-1].split(_BETWEEN) if len(self._joined) > 1 else []

    def _joined_containing(self, literal: bytes) -> Iterator[bytes]:
        joined = self._joined
        at = joined.find(literal)
        while at >= 0:
            end = joined.index(_BETWEEN, at)
            yield joined[joined.rindex(_BETWEEN, 0, at) + 1 : end]
            at = joined.find(literal, end)


class TermDictionaries:
    """The most recently used term dictionaries by key prefix, up to a number of bytes."""

    def __init__(self, bytes_max: int = VOCABULARY_BYTES_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[bytes, TermDictionary] = OrderedDict()

    def get(self, prefix: bytes, stored: Callable[[], Iterable[bytes]]) -> TermDictionary:
        """The term dictionary of the prefix, built from the stored keys when it is not cached."""
        found = self._held.get(prefix)
        if found is None or found.is_scattered:
            found = self._held[prefix] = TermDictionary(stored())
        self._held.move_to_end(prefix)
        while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > self._bytes_max:
            self._held.popitem(last=False)
        return found

    def add(self, prefix: bytes, texts: Iterable[bytes]) -> None:
        """Adds strings that were stored under the prefix."""
        found = self._held.get(prefix)
        if found is not None:
            found.add(texts)
