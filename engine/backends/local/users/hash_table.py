"""The user hash table: user refs in memory, looked up a batch at a time.

Open addressing with linear probing in one numpy array, 16 bytes a slot: 40 bits of user ref and 88 bits of
user id hash. The first bits of the hash give the home slot, so the table is nearly sorted by hash. Growing it
is one sort of nearly sorted rows and one pass. It is 50 to 70 % full: 23 to 32 bytes a user, a fifth of a
dict of strings.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.user_ref import USER_REF_BITS, USER_REF_MASK, UserRef, UserRefs

UNKNOWN = -1
"""Returned instead of a ref: the key is not in the table."""
CHANGING = -2
"""Returned instead of a ref by a reader without the lock: the table changed meanwhile."""

_FREE = (1 << 64) - 1
_GONE = USER_REF_MASK - 1
"""Tombstone: probing continues past it."""
_SLOTS_AT_FIRST = 1 << 12
FEW_KEYS_MAX = 64
"""Keys up to which each is looked up and written by itself, in about a microsecond: calls of numpy take tens,
however few the keys are.
"""
_USED_SHARE = 0.5
_USED_SHARE_MAX = 0.7


class TableMemory(Protocol):
    """Where the slots of a table are, for others who read them there."""

    def allocate(self, slots: int) -> Keys:
        """Memory for as many slots, whatever it contains."""
        ...

    def hold(self, slots: Keys) -> None:
        """The table has these slots from now on."""
        ...

    def count(self, version: int) -> None:
        """The version of the table, odd while slots change."""
        ...

    def set_complete(self, is_complete: bool) -> None:
        """Whether a key that is not in the table is nowhere."""
        ...


class OwnMemory:
    """Memory that only this process reads."""

    def allocate(self, slots: int) -> Keys:
        """A new array."""
        return np.empty((slots, 2), np.uint64)

    def hold(self, slots: Keys) -> None:
        """Nobody has to know."""

    def count(self, version: int) -> None:
        """Nobody has to know."""

    def set_complete(self, is_complete: bool) -> None:
        """Nobody has to know."""


OWN_MEMORY = OwnMemory()


class UserHashTable:
    """Hash of a user id → user ref. Keys have the form of `sorted_runs`.

    One thread may change it at a time. `peek` and `peek_many` may be called meanwhile: `_version` is odd
    while slots change and different afterwards, so a reader knows when it may have read half a change.
    """

    def __init__(self, memory: TableMemory = OWN_MEMORY) -> None:
        self._memory = memory
        self._version = 0
        self._hold(self._free(_SLOTS_AT_FIRST))
        self._used = 0

    def _free(self, slots: int) -> Keys:
        free = self._memory.allocate(slots)
        free[:] = _FREE
        return free

    def _begin_change(self) -> None:
        self._version += 1
        self._memory.count(self._version)

    _end_change = _begin_change

    def _hold(self, slots: Keys) -> None:
        self._slots = slots
        self._memory.hold(slots)
        self._numbers: memoryview[int] = memoryview(slots.reshape(-1))  # type: ignore[arg-type]
        """The same memory, of which single numbers are read faster."""

    def __len__(self) -> int:
        """Slots in use. A few too many when one batch repeated a key."""
        return self._used

    def find(self, keys: Keys) -> UserRefs:
        """The ref of each key, or UNKNOWN."""
        if len(keys) > FEW_KEYS_MAX:
            return _find(self._slots, keys)
        numbers = self._numbers
        found = [find_one_in(numbers, high, low, len(numbers)) for high, low in keys.tolist()]
        return np.array(found, np.int64)

    def peek(self, high: int, low: int) -> UserRef:
        """The ref of a key, UNKNOWN or CHANGING. Needs no lock."""
        version, numbers = self._version, self._numbers
        found = find_one_in(numbers, high, low, len(numbers))
        return CHANGING if version & 1 or version != self._version else found

    def peek_many(self, keys: Keys) -> UserRefs | None:
        """As `find`, without the lock; None: the table changed meanwhile."""
        version = self._version
        refs = _find(self._slots, keys)
        return None if version & 1 or version != self._version else refs

    def put(self, keys: Keys, refs: UserRefs) -> None:
        """Stores the refs of keys. Equal keys must have equal refs."""
        self.put_rows(rows_of(keys, refs))

    def forget(self, keys: Keys) -> None:
        """Removes these keys."""
        self.put(keys, np.full(len(keys), _GONE))

    def put_rows(self, rows: Keys) -> None:
        """As `put`, for keys with their refs in the low bits."""
        if self._used + len(rows) > len(self._slots) * _USED_SHARE_MAX:
            self._grow(len(rows))
        self._insert(rows)

    def _insert(self, rows: Keys) -> None:
        self._begin_change()
        try:
            if len(rows) > FEW_KEYS_MAX:
                self._used += _insert(self._slots, rows)
            else:
                self._used += _insert_few(self._numbers, rows)
        finally:
            self._end_change()

    def _grow(self, more: int) -> None:
        self._rebuild(self.rows(), more)

    def rows(self) -> Keys:
        """Every entry: keys with their refs in the low bits."""
        refs = self._slots[:, 1] & np.uint64(USER_REF_MASK)
        return self._slots[refs < np.uint64(_GONE)]

    @classmethod
    def of(cls, rows: Keys, memory: TableMemory = OWN_MEMORY) -> UserHashTable:
        """A table of these rows. Equal keys must have equal refs."""
        known = cls(memory)
        known._rebuild(rows, 0)
        return known

    def _rebuild(self, rows: Keys, more: int) -> None:
        """Rebuilds the table from these rows, with room for more."""
        # The rows are one or a few sorted stretches, for which a stable sort is fast.
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        if (rows[1:, 0] == rows[:-1, 0]).any():
            rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            rows = rows[np.append((rows[1:] != rows[:-1]).any(axis=1), True)]
        slots = self._free(max(_SLOTS_AT_FIRST, int((len(rows) + more) / _USED_SHARE)))
        # Each key goes to its home slot, or right after the previous key.
        turn = np.arange(len(rows))
        places = _homes(slots, rows)
        places -= turn
        np.maximum.accumulate(places, out=places)
        places += turn
        # Keys past the end wrap around to free slots.
        fitting = int(np.searchsorted(places, len(slots)))
        slots[places[:fitting]] = rows[:fitting]
        self._used = fitting + _insert(slots, rows[fitting:])
        # Readers without the lock see the old slots until the new ones are complete.
        self._begin_change()
        self._hold(slots)
        self._end_change()


def find_one_in(numbers: memoryview[int], high: int, low: int, probes_max: int) -> UserRef:
    """The ref of a key in slots, UNKNOWN, or CHANGING after as many probes: these are no slots any more."""
    size = len(numbers)
    at = ((high >> 32) * (size >> 1) >> 32) << 1
    for _ in range(probes_max):
        held = numbers[at + 1]
        if held == _FREE:
            return UNKNOWN
        if numbers[at] == high and (held ^ low) >> USER_REF_BITS == 0:
            ref = held & USER_REF_MASK
            return UNKNOWN if ref >= _GONE else ref
        at = (at + 2) % size
    return CHANGING


def find_in(slots: Keys, keys: Keys, probes_max: int) -> UserRefs | None:
    """The ref of each key in slots, or UNKNOWN; None after as many probes: these are no slots any more."""
    places = _homes(slots, keys)
    left = np.flatnonzero(_is_elsewhere(slots[places], keys))
    for _ in range(probes_max):
        if not len(left):
            return _refs_at(slots, places)
        places[left] = (places[left] + 1) % len(slots)
        left = left[_is_elsewhere(slots[places[left]], keys[left])]
    return None


def _find(slots: Keys, keys: Keys) -> UserRefs:
    """The ref of each key, or UNKNOWN."""
    return _refs_at(slots, _probe(slots, keys))


def _refs_at(slots: Keys, places: npt.NDArray[np.int64]) -> UserRefs:
    lows = slots[places, 1]
    refs: UserRefs = (lows & np.uint64(USER_REF_MASK)).astype(np.int64)
    refs[refs >= _GONE] = UNKNOWN
    return refs


def _homes(slots: Keys, keys: Keys) -> UserRefs:
    """Home slots of keys: the first 32 bits as a fraction of the table."""
    scaled = (keys[:, 0] >> np.uint64(32)) * np.uint64(len(slots))
    return (scaled >> np.uint64(32)).astype(np.int64)


def _probe(slots: Keys, keys: Keys) -> UserRefs:
    """For each key the slot that holds it, or the free slot for it."""
    places = _homes(slots, keys)
    left = np.flatnonzero(_is_elsewhere(slots[places], keys))
    while len(left):
        places[left] = (places[left] + 1) % len(slots)
        left = left[_is_elsewhere(slots[places[left]], keys[left])]
    return places


def _is_elsewhere(held: Keys, keys: Keys) -> npt.NDArray[np.bool_]:
    """Whether slots with this content hold other keys."""
    return np.asarray(_differ(held, keys) & (held[:, 1] != np.uint64(_FREE)))


def _insert(slots: Keys, rows: Keys) -> int:
    """Writes keys with their refs. Returns how many slots were free before."""
    used = 0
    while len(rows):
        places = _probe(slots, rows)
        was_free = slots[places, 1] == np.uint64(_FREE)
        slots[places] = rows
        # Two new keys may have claimed one slot; the last one got it.
        lost = _differ(slots[places], rows)
        used += int(np.count_nonzero(was_free & ~lost))
        rows = rows[lost]
    return used


def _insert_few(numbers: memoryview[int], rows: Keys) -> int:
    """As `_insert`, key by key."""
    used, size = 0, len(numbers)
    for high, low in rows.tolist():
        at = ((high >> 32) * (size >> 1) >> 32) << 1
        while (held := numbers[at + 1]) != _FREE and (
            numbers[at] != high or (held ^ low) >> USER_REF_BITS != 0
        ):
            at = (at + 2) % size
        used += held == _FREE
        numbers[at], numbers[at + 1] = high, low
    return used


def rows_of(keys: Keys, refs: UserRefs) -> Keys:
    """Keys with their refs in the low bits."""
    rows = keys.copy()
    rows[:, 1] |= refs.astype(np.uint64)
    return rows


def _differ(some: Keys, others: Keys) -> npt.NDArray[np.bool_]:
    """Whether the keys differ, ignoring their refs."""
    lows = (some[:, 1] ^ others[:, 1]) >> np.uint64(USER_REF_BITS)
    return np.asarray((some[:, 0] != others[:, 0]) | (lows != 0))
