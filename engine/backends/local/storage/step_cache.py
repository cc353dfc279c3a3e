"""The step cache: answers of whole steps, kept between executions.

A user edits one criterion of ten and asks again: the other nine are answered from here. An entry names the
data it was computed from by *read keys*. Every write touches the keys of the data it changes, which
invalidates entries computed before.

A step with a window is another step at each instant. Those that differ in nothing else are a *family*, and
share an entry, in which the latest few have a place.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from pyroaring import BitMap

from engine.bounded_cache import BoundedCache

ReadKey: TypeAlias = tuple[object, ...]
"""("field", field, group), ("belongs", input, group), ("seen", input, group), ("users", group) or ("events",
input, name, group). In the last one, name may be `ANY_NAME`.
"""

ANY_NAME = 0

T = TypeVar("T")

CachedSets: TypeAlias = "BoundedCache[tuple[int, int, bytes], tuple[int, object]]"
"""By cache, group and encoded step: a set, and the clock of its cache when its computation began. What sets
are made of is kept the same way.
"""

Instant: TypeAlias = tuple[int, int]
"""Number and clock of a cache."""

ENTRY_OVERHEAD_BYTES = 400

READS_KEPT = 1 << 10
"""Fields and inputs whose read keys are kept: every question about everyone names those of all groups."""

FAMILY_KEPT_MAX = 4
"""Members of a family that are kept. A walk through pages asks for the same instant again and again, beside
questions about the present.
"""


def reads_of_groups(kind: str, numbers: Sequence[int], groups: int) -> tuple[ReadKey, ...]:
    """The read keys (kind, number, group) of all groups."""
    if len(numbers) == 1:
        return _reads_of_one(kind, numbers[0], groups)
    return tuple((kind, number, group) for group in range(groups) for number in numbers)


@functools.lru_cache(READS_KEPT)
def _reads_of_one(kind: str, number: int, groups: int) -> tuple[ReadKey, ...]:
    return tuple((kind, number, group) for group in range(groups))


class _Member(NamedTuple):
    """A step of a family, its set, and the clock of the cache when its computation began."""

    step: bytes
    computed: int
    users: BitMap
    nbytes: int


class _Family(NamedTuple):
    """The members, the one used last first."""

    members: tuple[_Member, ...]


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

    def find(self, group: int, step: bytes, reads: Iterable[ReadKey], family: bytes = b"") -> BitMap | None:
        """The set, if its data has not changed. Do not modify the result."""
        if family:
            return self._find_member(group, family, step, reads)
        return self.find_part(group, step, reads, BitMap)

    def find_part(self, group: int, name: bytes, reads: Iterable[ReadKey], type_: type[T]) -> T | None:
        """What was kept under a name that is no encoded step, if its data has not changed."""
        found = self._sets.get((self._number, group, name))
        if found is None:
            return None
        computed, kept = found
        if self._has_changed(reads, computed):
            self._sets.drop((self._number, group, name))
            return None
        assert isinstance(kept, type_)
        return kept

    def _find_member(self, group: int, family: bytes, step: bytes, reads: Iterable[ReadKey]) -> BitMap | None:
        key = self._number, group, family
        kept = self._sets.get(key)
        if kept is None:
            return None
        found = kept[1]
        assert isinstance(found, _Family)
        member = next((each for each in found.members if each.step == step), None)
        if member is None or self._has_changed(reads, member.computed):
            return None
        if member is not found.members[0]:
            self._put_family(key, member, found)
        return member.users

    def _has_changed(self, reads: Iterable[ReadKey], computed: int) -> bool:
        """Whether one of these keys was touched since the clock stood there."""
        if computed == self._clock:
            return False
        touched = self._touched
        return any(touched.get(each, 0) > computed for each in reads)

    def find_old(self, group: int, name: bytes, type_: type[T]) -> T | None:
        """What was kept under a name, also when its data has changed since."""
        found = self._sets.peek((self._number, group, name))
        if found is None:
            return None
        assert isinstance(found[1], type_)
        return found[1]

    def instant(self) -> Instant:
        """The current instant: what is computed from now on does not see later changes for certain."""
        return self._number, self._clock

    def add(
        self, group: int, step: bytes, users: BitMap, spread: int, began: Instant, family: bytes = b""
    ) -> None:
        """Adds a set whose computation began at that instant. `spread`: number of ids in its group."""
        nbytes = min(2 * len(users), spread // 8)
        if family:
            self._add_member(group, family, step, users, nbytes, began)
        else:
            self.add_part(group, step, users, nbytes, began)

    def _add_member(
        self, group: int, family: bytes, step: bytes, users: BitMap, nbytes: int, began: Instant
    ) -> None:
        number, clock = began
        if number == self._number:
            key = number, group, family
            kept = self._sets.peek(key)
            found = _Family(()) if kept is None else kept[1]
            assert isinstance(found, _Family)
            self._put_family(key, _Member(step, clock, users, nbytes + len(step)), found)

    def _put_family(self, key: tuple[int, int, bytes], first: _Member, found: _Family) -> None:
        others = (each for each in found.members if each.step != first.step)
        members = (first, *itertools.islice(others, FAMILY_KEPT_MAX - 1))
        size = sum(each.nbytes for each in members) + len(key[2]) + ENTRY_OVERHEAD_BYTES
        self._sets.put(key, (self._clock, _Family(members)), size)

    def add_part(self, group: int, name: bytes, part: object, nbytes: int, began: Instant) -> None:
        """Keeps what sets are made of, of that size in bytes, whose computation began at that instant."""
        number, clock = began
        if number == self._number:
            size = nbytes + len(name) + ENTRY_OVERHEAD_BYTES
            self._sets.put((number, group, name), (clock, part), size)

    def clear(self) -> None:
        """Clears the cache, after a user was erased or became an alias."""
        # Sets of the former number are found no more and are the next to be dropped.
        self._number = next(_numbers)
        self._touched.clear()
