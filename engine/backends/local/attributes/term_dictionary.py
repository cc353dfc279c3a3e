"""The term dictionary: the distinct strings of a field, in memory.

A string test that is no lookup must look at every distinct value. Scanning a million index keys takes about a
second; searching the same strings joined into one takes milliseconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator

from engine.backends.local.storage.matching import LINE_BREAK, matching_lines, passing_values
from engine.backends.local.storage.turns import Unshared
from engine.bounded_cache import BoundedCache
from engine.criteria.operators import Matcher


class TermDictionary:
    """Strings joined by line breaks; apart from them, strings with a line break and strings added since."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._fill([list(texts)], b"")

    @classmethod
    def of_keys(cls, blocks: Iterable[list[bytes]], prefix: bytes) -> TermDictionary:
        """The dictionary of the strings that follow a prefix in keys."""
        found = cls.__new__(cls)
        found._fill(blocks, prefix)
        return found

    def _fill(self, blocks: Iterable[list[bytes]], prefix: bytes) -> None:
        pieces: list[bytes] = []
        self._later: list[bytes] = []
        self._count = 0
        for keys in blocks:
            piece = LINE_BREAK.join((b"", *keys))
            if piece.count(LINE_BREAK) > len(keys):
                texts = [found[len(prefix) :] for found in keys]
                self._later += [text for text in texts if LINE_BREAK in text]
                texts = [text for text in texts if LINE_BREAK not in text]
                piece = LINE_BREAK.join((b"", *texts))
                self._count += len(texts)
            else:
                # With a line break before it, the prefix is at the beginning of keys alone.
                piece = piece.replace(LINE_BREAK + prefix, LINE_BREAK)
                self._count += len(keys)
            pieces.append(piece)
        self._joined = b"".join((*pieces, LINE_BREAK))
        self.nbytes = len(self._joined) + sum(map(len, self._later))
        """Approximate memory in bytes."""
        self._scattered_above = len(self._later) + len(self._joined) // 256 + 64
        self._passed: tuple[weakref.ref[Matcher], list[bytes]] | None = None
        """The last test, and the joined strings that pass it: the same test is often repeated."""

    @property
    def is_scattered(self) -> bool:
        """Whether rejoining pays: many strings were added since."""
        return len(self._later) > self._scattered_above

    @property
    def count(self) -> int:
        """Number of strings."""
        return self._count + len(self._later)

    def texts(self) -> list[str]:
        """The strings."""
        return [text.decode() for text in (*self._all_joined(), *self._later)]

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
            passed = self._passing_of_joined(matcher, read)
            self._passed = (weakref.ref(matcher), passed)
        return passed + _passing(matcher, later, read)

    def _passing_of_joined(self, matcher: Matcher, read: Unshared) -> list[bytes]:
        if matcher.joined is None:
            joined = self._joined_containing(matcher.literal) if matcher.literal else self._all_joined()
            return _passing(matcher, list(joined), read)
        passed: list[bytes] = []
        doubtful: list[bytes] = []
        for line in matching_lines(matcher.joined, self._joined, read.check):
            (passed if line.passes else doubtful).append(line.text)
        read.looked_at += self._count - len(doubtful)
        return passed + _passing(matcher, doubtful, read)

    def _all_joined(self) -> list[bytes]:
        return self._joined[1:-1].split(LINE_BREAK) if len(self._joined) > 1 else []

    def _joined_containing(self, literal: bytes) -> Iterator[bytes]:
        if LINE_BREAK in literal:
            return
        joined = self._joined
        at = joined.find(literal)
        while at >= 0:
            end = joined.index(LINE_BREAK, at)
            yield joined[joined.rindex(LINE_BREAK, 0, at) + 1 : end]
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
