"""UserRefs of users in memory, found for a whole batch at once.

An open-addressing hash table with linear probing in one numpy array: 16 bytes a slot, of which the place
takes 40 bits and the hash of the user id 88. Where a hash belongs follows from its first bits, so the table
is nearly in the order of the hashes, and growing it is one sort of what is nearly sorted and one pass. It is
between a half and seven tenths full: 23 to 32 bytes a user, a fifth of what a dict of strings takes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.user_ref import USER_REF_BITS, USER_REF_MASK, UserRefs

UNKNOWN = -1
"""In place of a place: it is not here."""

_FREE = (1 << 64) - 1
_GONE = USER_REF_MASK - 1
"""Stands where a place was that is known no more, and has what lies behind it still be found."""
_SLOTS_AT_FIRST = 1 << 12
_USED_SHARE = 0.5
_USED_SHARE_MAX = 0.7


class UserHashTable:
    """Hash of a user id → place, for keys as `runs` has them."""

    def __init__(self) -> None:
        self._slots = _free(_SLOTS_AT_FIRST)
        self._used = 0

    def __len__(self) -> int:
        """How many slots are in use, or a few more, where equal keys were put at once."""
        return self._used

    def find(self, keys: Keys) -> UserRefs:
        """The place of each, or UNKNOWN."""
        lows = self._slots[self._probe(keys), 1]
        refs: UserRefs = (lows & np.uint64(USER_REF_MASK)).astype(np.int64)
        refs[refs >= _GONE] = UNKNOWN
        return refs

    def _homes(self, keys: Keys) -> UserRefs:
        """Where keys belong: the first 32 bits as a fraction of the table."""
        scaled = (keys[:, 0] >> np.uint64(32)) * np.uint64(len(self._slots))
        return (scaled >> np.uint64(32)).astype(np.int64)

    def _probe(self, keys: Keys) -> UserRefs:
        """For each key the slot that has it, or the free one where it is to go."""
        slots = self._homes(keys)
        left = np.flatnonzero(self._is_elsewhere(slots, keys))
        while len(left):
            slots[left] = (slots[left] + 1) % len(self._slots)
            left = left[self._is_elsewhere(slots[left], keys[left])]
        return slots

    def _is_elsewhere(self, slots: UserRefs, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether slots hold other keys than these."""
        held = self._slots[slots]
        return np.asarray(_differ(held, keys) & (held[:, 1] != np.uint64(_FREE)))

    def put(self, keys: Keys, refs: UserRefs) -> None:
        """Remembers the places of keys, of which equal ones have equal places."""
        self.put_rows(rows_of(keys, refs))

    def forget(self, keys: Keys) -> None:
        """Knows these keys no more."""
        self.put(keys, np.full(len(keys), _GONE))

    def put_rows(self, rows: Keys) -> None:
        """As `put`, for keys whose low bits are the places."""
        if self._used + len(rows) > len(self._slots) * _USED_SHARE_MAX:
            self._grow(len(rows))
        self._insert(rows)

    def _insert(self, rows: Keys) -> None:
        while len(rows):
            slots = self._probe(rows)
            was_free = self._slots[slots, 1] == np.uint64(_FREE)
            self._slots[slots] = rows
            # Two that are new may have met in one slot, where the last of them stayed.
            lost = _differ(self._slots[slots], rows)
            self._used += int(np.count_nonzero(was_free & ~lost))
            rows = rows[lost]

    def _grow(self, more: int) -> None:
        self._rebuild(self.rows(), more)

    def rows(self) -> Keys:
        """All that is known: keys whose low bits are the places."""
        refs = self._slots[:, 1] & np.uint64(USER_REF_MASK)
        return self._slots[refs < np.uint64(_GONE)]

    @classmethod
    def of(cls, rows: Keys) -> UserHashTable:
        """A table of these rows, of which equal keys have equal places."""
        known = cls()
        known._rebuild(rows, 0)
        return known

    def _rebuild(self, rows: Keys, more: int) -> None:
        """Starts anew with these rows, and room for more."""
        # In order already, or several times over: what a stable sort is fast for.
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        if (rows[1:, 0] == rows[:-1, 0]).any():
            rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            rows = rows[np.append((rows[1:] != rows[:-1]).any(axis=1), True)]
        self._slots = _free(max(_SLOTS_AT_FIRST, int((len(rows) + more) / _USED_SHARE)))
        # Each goes where it belongs, or right behind the one before it.
        turn = np.arange(len(rows))
        slots = self._homes(rows)
        slots -= turn
        np.maximum.accumulate(slots, out=slots)
        slots += turn
        # Those that would lie behind the end, the last ones, are put where there is room.
        fitting = int(np.searchsorted(slots, len(self._slots)))
        self._slots[slots[:fitting]] = rows[:fitting]
        self._used = fitting
        self._insert(rows[fitting:])


def rows_of(keys: Keys, refs: UserRefs) -> Keys:
    """Keys with their places in the low bits."""
    rows = keys.copy()
    rows[:, 1] |= refs.astype(np.uint64)
    return rows


def _free(slots: int) -> Keys:
    return np.full((slots, 2), _FREE, np.uint64)


def _differ(some: Keys, others: Keys) -> npt.NDArray[np.bool_]:
    """Whether the keys differ, whatever their places."""
    lows = (some[:, 1] ^ others[:, 1]) >> np.uint64(USER_REF_BITS)
    return np.asarray((some[:, 0] != others[:, 0]) | (lows != 0))
