"""The term dictionary: the distinct strings of a field, in memory.

A string test that is no lookup must look at every distinct value. Scanning a million index keys takes about a
second; searching the same strings joined into one takes milliseconds. Most strings that are that many, such
as addresses, have one user each. So each string comes with its user, and those that pass need no look-up.
"""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.arrays import Positions, Uint32s
from engine.backends.local.storage.matching import LINE_BREAK, passing_values, search_joined
from engine.backends.local.storage.page_cache import NO_ID, only_ids
from engine.backends.local.storage.transactions import Pairs
from engine.backends.local.storage.turns import Unshared
from engine.bounded_cache import BoundedCache
from engine.criteria.operators import Matcher
from engine.criteria.operators.base import JoinedSearch, Texts

CHANGED_SHARE_MAX = 16
CHANGED_MIN = 64
"""A dictionary is built anew when more than one in `CHANGED_SHARE_MAX` of its strings changed users, and at
least `CHANGED_MIN` did.
"""
FORGOTTEN_AT_ONCE = 64
"""Strings whose users are forgotten before others go first: a fraction of a millisecond."""

SAMPLED_BYTES = 1 << 16
"""Bytes, spread over a dictionary, by which the rarest byte of a literal is chosen."""
RARE_SHARE = 16
"""A byte is rare when it is at most one in sixteen: its places are kept, four bytes each, and words of
eight beside them, if there is room.
"""
RARE_BYTES_KEPT = 2
"""Bytes whose places are kept."""
PLACES_SHARE = 2
"""The places and words of rare bytes take at most half as much memory as the strings."""

_WORD_BYTES = 8
_BEFORE_BYTES = (0, _WORD_BYTES - 1)
"""Bytes before a rare one in the word that is kept with it: none, so that the rest are those after it, or all
but itself.
"""


class RarePlaces(NamedTuple):
    """Where a rare byte is, and at each place a word: the byte, and the bytes before or after it. Words are
    compared one after the other. Most would not be in the processor's caches where the strings are. None:
    they would take too much memory.
    """

    places: Uint32s | Positions
    before: int
    words: npt.NDArray[np.uint64] | None

    @property
    def nbytes(self) -> int:
        return self.places.nbytes + (0 if self.words is None else self.words.nbytes)

    @classmethod
    def of_byte(cls, byte: int, before: int, joined: bytes, dtype: npt.DTypeLike) -> RarePlaces:
        """The places in some bytes, which end with a word of others."""
        found = np.flatnonzero(np.frombuffer(joined, np.uint8) == byte)
        places = found.astype(dtype)
        if places.nbytes + _WORD_BYTES * len(places) > len(joined) // PLACES_SHARE:
            return cls(places, before, None)
        words = _words_of(joined)[np.maximum(found - before, 0)]
        for row, place in enumerate(found[:before].tolist()):
            if place < before:
                words[row] <<= np.uint64(8 * (before - place))
        return cls(places, before, words)

    def of_literal(self, literal: bytes, at: int, first: int, end: int) -> Positions:
        """Where the literal may begin, by some of the places; `at`: where the byte is in it."""
        if self.words is None:
            return self.places[first:end].astype(np.int64) - at
        mask = word = 0
        for number, byte in enumerate(range(at - self.before, at - self.before + _WORD_BYTES)):
            if 0 <= byte < len(literal):
                mask |= 0xFF << 8 * number
                word |= literal[byte] << 8 * number
        may_be = np.flatnonzero(self.words[first:end] & np.uint64(mask) == np.uint64(word))
        return self.places[first:end][may_be].astype(np.int64) - at


class Passing(NamedTuple):
    """Strings that pass a test: the users of those that have one user, and the others."""

    users: Uint32s
    texts: list[bytes]


class TermDictionary:
    """Strings joined by line breaks, in order; apart from them, strings with a line break and strings added
    since. A string is known by its number, in order.
    """

    def __init__(self, texts: Iterable[bytes]) -> None:
        """Strings whose users are not known."""
        self._later: list[bytes] = []
        ordered = sorted(texts)
        self._fill([self._taken(ordered, np.full(len(ordered), NO_ID, np.uint32))])

    @classmethod
    def of_pairs(
        cls, blocks: Iterable[Pairs], prefix: bytes, changed: Set[bytes] = frozenset()
    ) -> TermDictionary:
        """The dictionary of the strings that follow a prefix in keys, in order, whose values are sets of
        users. Those of `changed` keys are not the present ones.
        """
        found = cls.__new__(cls)
        found._later = []
        start = len(prefix)
        found._fill(
            found._taken([key[start:] for key in block.keys], _users_of(block, changed)) for block in blocks
        )
        return found

    def _taken(self, texts: Sequence[bytes], users: Uint32s) -> tuple[Sequence[bytes], bytes, Uint32s]:
        """Strings without a line break, the same joined, and their users; the others are kept apart."""
        joined = LINE_BREAK.join((b"", *texts))
        if joined.count(LINE_BREAK) > len(texts):
            self._later += [text for text in texts if LINE_BREAK in text]
            rows = [row for row, text in enumerate(texts) if LINE_BREAK not in text]
            texts, users = [texts[row] for row in rows], users[rows]
            joined = LINE_BREAK.join((b"", *texts))
        return texts, joined, users

    def _fill(self, blocks: Iterable[tuple[Sequence[bytes], bytes, Uint32s]]) -> None:
        pieces: list[bytes] = []
        lengths: list[Positions] = [np.zeros(1, np.int64)]
        users: list[Uint32s] = [np.zeros(0, np.uint32)]
        for texts, joined, of_texts in blocks:
            pieces.append(joined)
            lengths.append(np.fromiter(map(len, texts), np.int64, len(texts)))
            users.append(of_texts)
        # What follows is read eight bytes at a time, and never searched.
        self._joined = b"".join((*pieces, LINE_BREAK, bytes(_WORD_BYTES)))
        starts = np.cumsum(np.concatenate(lengths) + len(LINE_BREAK))
        self._starts: Uint32s | Positions = starts.astype(np.uint32) if starts[-1] < NO_ID else starts
        """Where each string starts, followed by where one more would."""
        self._users = np.concatenate(users)
        """The user of each string; `NO_ID` where it has to be looked up."""
        self._count = len(self._users)
        self._changed: set[bytes] = set()
        """Strings whose users have changed since."""
        self._changed_max = max(CHANGED_MIN, self._count // CHANGED_SHARE_MAX)
        self._places: dict[tuple[int, int], RarePlaces] = {}
        """Where rare bytes are."""
        whole = np.frombuffer(self._joined, np.uint8)
        self._sampled = np.bincount(whole[:: len(whole) // SAMPLED_BYTES + 1], minlength=256)
        self._later_bytes = sum(map(len, self._later))
        self._scattered_above = len(self._later) + len(self._joined) // 256 + 64
        self._passed: tuple[weakref.ref[Matcher], Positions] | None = None
        """The last test, and the joined strings that pass it: the same test is often repeated."""

    @property
    def nbytes(self) -> int:
        """Approximate memory in bytes."""
        places = sum(places.nbytes for places in self._places.values())
        arrays = self._starts.nbytes + self._users.nbytes + places
        return len(self._joined) + self._later_bytes + arrays

    @property
    def is_scattered(self) -> bool:
        """Whether building it anew pays: many strings were added, or have other users."""
        return len(self._later) > self._scattered_above or len(self._changed) > self._changed_max

    @property
    def count(self) -> int:
        """Number of strings."""
        return self._count + len(self._later)

    def texts(self) -> list[str]:
        """The strings."""
        return [text.decode() for text in (*self._texts_between(0, self._count), *self._later)]

    def add(self, texts: Iterable[bytes]) -> None:
        """Adds strings. A string that is already present is then returned twice."""
        for text in texts:
            self._later.append(text)
            self._later_bytes += len(text)

    def changes(self, text: bytes) -> None:
        """The users of a string change."""
        if len(self._changed) <= self._changed_max:
            self._changed.add(text)

    def settle(self, pause: Callable[[], None]) -> None:
        """Forgets the users of strings that changed since: these are looked up from now on."""
        while self._changed:
            for text in list(itertools.islice(self._changed, FORGOTTEN_AT_ONCE)):
                self._changed.discard(text)
                number = bisect.bisect_left(range(self._count), text, key=self._text)
                if number < self._count and self._text(number) == text:
                    self._users[number] = NO_ID
            if self._changed:
                pause()

    def passing(self, matcher: Matcher, read: Unshared) -> Passing:
        """The strings that pass a test on strings, in no particular order. Needs no lock."""
        # Copied first: others add to it.
        later = list(self._later)
        last = self._passed
        if last is not None and last[0]() is matcher:
            numbers = last[1]
        else:
            numbers = self._passing_numbers(matcher, read)
            self._passed = (weakref.ref(matcher), numbers)
        users = self._users[numbers]
        texts = list(map(self._text, numbers[users == NO_ID].tolist()))
        passed = self._test(matcher, later, read)
        return Passing(users[users != NO_ID], texts + list(itertools.compress(later, passed)))

    def _passing_numbers(self, matcher: Matcher, read: Unshared) -> Positions:
        """Those of the joined strings that pass, in order."""
        first, end = self._range(matcher.between)
        if first == end:
            return np.zeros(0, np.int64)
        if matcher.joined is not None:
            return self._found_by_expression(matcher, matcher.joined, first, end, read)
        if not matcher.literal:
            numbers: Positions = np.arange(first, end)
        elif LINE_BREAK in matcher.literal:
            return np.zeros(0, np.int64)
        else:
            numbers = self._containing(matcher.literal, first, end)
        if matcher.is_literal:
            read.looked_at += len(numbers)
            return numbers
        return self._of_passing(matcher, numbers, read)

    def _found_by_expression(
        self, matcher: Matcher, search: JoinedSearch, first: int, end: int, read: Unshared
    ) -> Positions:
        """Those of some strings that pass, by a search in all of them."""
        start, stop = int(self._starts[first]), int(self._starts[end]) - len(LINE_BREAK)
        found = search_joined(search, self._joined, start, stop, read.check)
        numbers, doubtful = self._numbers_at(found.passing), self._numbers_at(found.doubtful)
        read.looked_at += end - first - len(doubtful)
        if len(doubtful):
            numbers = np.union1d(numbers, self._of_passing(matcher, doubtful, read))
        return numbers

    def _of_passing(self, matcher: Matcher, numbers: Positions, read: Unshared) -> Positions:
        texts = (
            self._texts_between(0, self._count)
            if len(numbers) == self._count
            else list(map(self._text, numbers.tolist()))
        )
        return numbers[np.array(self._test(matcher, texts, read), np.bool_)]

    @staticmethod
    def _test(matcher: Matcher, texts: list[bytes], read: Unshared) -> list[bool]:
        read.looked_at += len(texts)
        passed: list[bool] = passing_values(matcher, [text.decode() for text in texts], read.check).tolist()
        return passed

    # --- joined strings ---

    def _text(self, number: int) -> bytes:
        return self._joined[self._starts[number] : self._starts[number + 1] - len(LINE_BREAK)]

    def _texts_between(self, first: int, end: int) -> list[bytes]:
        """The strings of some numbers."""
        if first == end:
            return []
        return self._joined[self._starts[first] : self._starts[end] - len(LINE_BREAK)].split(LINE_BREAK)

    def _range(self, between: Texts | None) -> tuple[int, int]:
        """The first of some strings, and the one after the last."""
        if between is None:
            return 0, self._count
        numbers = range(self._count)
        first = bisect.bisect_left(numbers, between[0], key=self._text)
        return first, bisect.bisect_right(numbers, between[1], first, key=self._text)

    def _numbers_at(self, places: Sequence[int] | Positions) -> Positions:
        """The strings that these places, in order, lie in."""
        numbers: Positions = (
            np.searchsorted(self._starts, np.asarray(places, self._starts.dtype), "right") - 1
        )
        return numbers[np.diff(numbers, prepend=-1) > 0]

    def _containing(self, literal: bytes, first: int, end: int) -> Positions:
        """Those of some strings that contain a literal."""
        start, stop = int(self._starts[first]), int(self._starts[end])
        rarest = min(literal, key=lambda byte: int(self._sampled[byte]))
        if int(self._sampled[rarest]) * RARE_SHARE > int(self._sampled.sum()):
            return self._numbers_at(self._found_by_search(literal, start, stop))
        at = literal.index(rarest)
        # With the more bytes of the literal.
        found = self._places_of(rarest, _BEFORE_BYTES[2 * at >= len(literal)])
        low, high = found.places.searchsorted(np.array([start, stop], found.places.dtype)).tolist()
        places = found.of_literal(literal, at, low, high)
        return self._numbers_at(_where_is(literal, self._joined, places[places >= start]))

    def _places_of(self, byte: int, before: int) -> RarePlaces:
        """Where a rare byte is."""
        known = self._places.get((byte, before))
        if known is not None:
            return known
        rare = RarePlaces.of_byte(byte, before, self._joined, self._starts.dtype)
        kept = dict(list(self._places.items())[-(RARE_BYTES_KEPT - 1) :])
        nbytes = rare.nbytes + sum(each.nbytes for each in kept.values())
        if nbytes > len(self._joined) // PLACES_SHARE:
            kept = {}
        self._places = {**kept, (byte, before): rare}
        return rare

    def _found_by_search(self, literal: bytes, start: int, stop: int) -> list[int]:
        """A place in each string that has the literal."""
        places: list[int] = []
        joined = self._joined
        at = joined.find(literal, start, stop)
        while at >= 0:
            places.append(at)
            at = joined.find(literal, joined.index(LINE_BREAK, at), stop)
        return places


def _users_of(block: Pairs, changed: Set[bytes]) -> Uint32s:
    """The only user of each value; `NO_ID` where it has to be looked up."""
    users = only_ids(block)
    if changed:
        users[[key in changed for key in block.keys]] = NO_ID
    return users


def _words_of(joined: bytes) -> npt.NDArray[np.uint64]:
    """The eight bytes from each byte on."""
    return np.ndarray((len(joined) - _WORD_BYTES + 1,), "<u8", joined, strides=(1,))


def _where_is(literal: bytes, joined: bytes, places: Positions) -> Positions:
    """Those of the places at which a literal is. Eight bytes can be read from each place of it."""
    words = _words_of(joined)
    size = min(len(literal), _WORD_BYTES)
    mask = np.uint64((1 << 8 * size) - 1)
    places = places[places <= len(joined) - max(len(literal), _WORD_BYTES)]
    for at in range(0, len(literal), _WORD_BYTES):
        at = min(at, len(literal) - size)
        word = np.uint64(int.from_bytes(literal[at : at + size], "little"))
        places = places[words[places + at] & mask == word]
    return places


class TermDictionaries:
    """The most recently used term dictionaries by key prefix, which names the account too."""

    def __init__(self, held: BoundedCache[bytes, TermDictionary]) -> None:
        self._held = held
        self._building: list[tuple[bytes, set[bytes]]] = []
        self.version = 0
        """Changes whenever strings are added."""

    def find(self, prefix: bytes) -> TermDictionary | None:
        """The term dictionary of the prefix; None when it has to be built from the stored keys."""
        found = self._held.get(prefix)
        return None if found is None or found.is_scattered else found

    @contextmanager
    def building(self, prefix: bytes) -> Iterator[set[bytes]]:
        """Collects the strings under the prefix whose users change in the block."""
        changed: set[bytes] = set()
        building = prefix, changed
        self._building.append(building)
        try:
            yield changed
        finally:
            self._building = [each for each in self._building if each is not building]

    def put(self, prefix: bytes, built: TermDictionary, version: int) -> None:
        """Keeps a dictionary of the strings that were stored at that version."""
        if version == self.version:
            self._held.put(prefix, built, built.nbytes)

    def grown(self, prefix: bytes) -> None:
        """The dictionary may have grown."""
        found = self._held.peek(prefix)
        if found is not None:
            self._held.put(prefix, found, found.nbytes)

    def add(self, prefix: bytes, texts: Iterable[bytes]) -> None:
        """Adds strings that were stored under the prefix."""
        self.version += 1
        found = self._held.peek(prefix)
        if found is not None:
            found.add(texts)
            self.grown(prefix)

    def changes(self, prefix: bytes, text: bytes) -> None:
        """The users of a string change, which had some."""
        found = self._held.peek(prefix)
        if found is not None:
            found.changes(text)
        for built, changed in self._building:
            if built == prefix:
                changed.add(text)
