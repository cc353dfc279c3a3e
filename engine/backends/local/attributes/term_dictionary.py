"""The distinct strings of a field, kept together in memory.

A test on strings that is no lookup asks every distinct value. Walking a million keys of the index for it
takes about a second, looking for a literal in the same strings joined to one takes milliseconds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

VOCABULARY_BYTES_DEFAULT = 64 * 1024 * 1024
"""Strings of all fields of an account kept in memory."""

# No byte of UTF-8, so that no literal is found across two strings.
_BETWEEN = b"\xff"


class TermDictionary:
    """Strings joined to one, and, apart, strings that came since."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self._joined = _BETWEEN + b"".join(text + _BETWEEN for text in texts)
        self._later: list[bytes] = []

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return len(self._joined) + sum(len(text) for text in self._later)

    @property
    def is_scattered(self) -> bool:
        """Joining anew would pay: too much has come since."""
        return len(self._later) > len(self._joined) // 256 + 64

    def add(self, texts: Iterable[bytes]) -> None:
        """More strings; one that is there already comes twice from now on."""
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
    """The term_dictionaries used last, by the prefix of their keys, up to a number of bytes."""

    def __init__(self, bytes_max: int = VOCABULARY_BYTES_DEFAULT) -> None:
        self._bytes_max = bytes_max
        self._held: OrderedDict[bytes, TermDictionary] = OrderedDict()

    def get(self, prefix: bytes, stored: Callable[[], Iterable[bytes]]) -> TermDictionary:
        """The term_dictionary under the prefix, made of what is stored there when it is not held."""
        found = self._held.get(prefix)
        if found is None or found.is_scattered:
            found = self._held[prefix] = TermDictionary(stored())
        self._held.move_to_end(prefix)
        while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > self._bytes_max:
            self._held.popitem(last=False)
        return found

    def add(self, prefix: bytes, texts: Iterable[bytes]) -> None:
        """Strings that have been stored under the prefix."""
        found = self._held.get(prefix)
        if found is not None:
            found.add(texts)
