"""The term dictionary: the distinct strings of a field, in memory.

A string test that is no lookup must look at every distinct value. Scanning a million index keys takes about a
second; searching the same strings joined into one takes milliseconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from engine.backends.local.storage.matching import passing_values
from engine.backends.local.storage.turns import Unshared
from engine.bounded_cache import BoundedCache
from engine.criteria.operators import Matcher

# Not a byte of UTF-8, so no literal matches across two strings.
_BETWEEN = b"\xff"


class TermDictionary:
    """Strings joined into one, and the strings added since, apart."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._joined = _BETWEEN + b"".join(text + _BETWEEN for text in texts)
        self._later: list[bytes] = []
        self.nbytes = len(self._joined)
        """Approximate memory in bytes."""
        self._passed: tuple[weakref.ref[Matcher], list[bytes]] | None = None
        """The last test, and the joined strings that pass it: the same test is often repeated."""

    @property
    def is_scattered(self) -> bool:
        """Whether rejoining pays: many strings were added since."""
        return len(self._later) > len(self._joined) // 256 + 64

    def add(self, texts: Iterable[bytes]) -> None:
        """Adds strings. A string that is already present is then returned twice."""
        for text in texts:
            self._later.append(text)
            self.nbytes += len(text)

    def passing(self, matcher: Matcher, read: Unshared) -> list[bytes]:
        """The strings that pass a test on strings, in no particular order. Needs no lock."""
        # Copied first: others add to it.
        later = list(self._later)
        last = self._passed
        if last is not None and last[0]() is matcher:
            passed = last[1]
        else:
            joined = self._joined_containing(matcher.literal) if matcher.literal else self._all_joined()
            passed = _passing(matcher, list(joined), read)
            self._passed = (weakref.ref(matcher), passed)
        return passed + _passing(matcher, later, read)

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
    """The most recently used term dictionaries by key prefix, which names the account too."""

    def __init__(self, held: BoundedCache[bytes, TermDictionary]) -> None:
        self._held = held
        self.version = 0
        """Changes whenever strings are added."""

    def find(self, prefix: bytes) -> TermDictionary | None:
        """The term dictionary of the prefix; None when it has to be built from the stored keys."""
        found = self._held.get(prefix)
        return None if found is None or found.is_scattered else found

    def put(self, prefix: bytes, built: TermDictionary, version: int) -> None:
        """Keeps a dictionary of the strings that were stored at that version."""
        if version == self.version:
            self._held.put(prefix, built, built.nbytes)

    def add(self, prefix: bytes, texts: Iterable[bytes]) -> None:
        """Adds strings that were stored under the prefix."""
        self.version += 1
        found = self._held.get(prefix)
        if found is not None:
            found.add(texts)
            self._held.put(prefix, found, found.nbytes)


def _passing(matcher: Matcher, texts: list[bytes], read: Unshared) -> list[bytes]:
    read.looked_at += len(texts)
    passed = passing_values(matcher, [text.decode() for text in texts], read.check)
    return [text for text, passes in zip(texts, passed.tolist(), strict=True) if passes]
