"""The user hash table: user refs in memory, looked up a batch at a time.

Open addressing with linear probing in one numpy array, 16 bytes a slot: 40 bits of user ref and 88 bits of
user id hash. The first bits of the hash give the home slot, so the table is nearly sorted by hash. Growing it
is one sort of nearly sorted rows and one pass. It is 50 to 70 % full: 23 to 32 bytes a user, a fifth of a
dict of strings.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.backends.local.storage.sorted_runs import Keys
from engine.backends.local.storage.user_ref import USER_REF_BITS, USER_REF_MASK, UserRefs

UNKNOWN = -1
"""Returned instead of a ref: the key is not in the table."""

_FREE = (1 << 64) - 1
_GONE = USER_REF_MASK - 1
"""Tombstone: probing continues past it."""
_SLOTS_AT_FIRST = 1 << 12
_USED_SHARE = 0.5
_USED_SHARE_MAX = 0.7


class UserHashTable:
    """Hash of a user id → user ref. Keys have the form of `sorted_runs`."""

    def __init__(self) -> None:
        self._slots = _free(_SLOTS_AT_FIRST)
        self._used = 0

    def __len__(self) -> int:
        """Slots in use. A few too many when one batch repeated a key."""
        return self._used

    def find(self, keys: Keys) -> UserRefs:
        """The ref of each key, or UNKNOWN."""
        lows = self._slots[self._probe(keys), 1]
        refs: UserRefs = (lows & np.uint64(USER_REF_MASK)).astype(np.int64)
        refs[refs >= _GONE] = UNKNOWN
        return refs

    def _homes(self, keys: Keys) -> UserRefs:
        """Home slots of keys: the first 32 bits as a fraction of the table."""
        scaled = (keys[:, 0] >> np.uint64(32)) * np.uint64(len(self._slots))
        return (scaled >> np.uint64(32)).astype(np.int64)

    def _probe(self, keys: Keys) -> UserRefs:
        """For each key the slot that holds it, or the free slot for it."""
        slots = self._homes(keys)
        left = np.flatnonzero(self._is_elsewhere(slots, keys))
        while len(left):
            slots[left] = (slots[left] + 1) % len(self._slots)
            left = left[self._is_elsewhere(slots[left], keys[left])]
        return slots

    def _is_elsewhere(self, slots: UserRefs, keys: Keys) -> npt.NDArray[np.bool_]:
        """Whether the slots hold keys other than these."""
        held = self._slots[slots]
        return np.asarray(_differ(held, keys) & (held[:, 1] != np.uint64(_FREE)))

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
        while len(rows):
            slots = self._probe(rows)
            was_free = self._slots[slots, 1] == np.uint64(_FREE)
            self._slots[slots] = rows
            # Two new keys may have claimed one slot; the last one got it.
            lost = _differ(self._slots[slots], rows)
            self._used += int(np.count_nonzero(was_free & ~lost))
            rows = rows[lost]

    def _grow(self, more: int) -> None:
        self._rebuild(self.rows(), more)

    def rows(self) -> Keys:
        """Every entry: keys with their refs in the low bits."""
        refs = self._slots[:, 1] & np.uint64(USER_REF_MASK)
        return self._slots[refs < np.uint64(_GONE)]

    @classmethod
    def of(cls, rows: Keys) -> UserHashTable:
        """A table of these rows. Equal keys must have equal refs."""
        known = cls()
        known._rebuild(rows, 0)
        return known

    def _rebuild(self, rows: Keys, more: int) -> None:
        """Rebuilds the table from these rows, with room for more."""
        # The rows are one or a few sorted stretches, for which a stable sort is fast.
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        if (rows[1:, 0] == rows[:-1, 0]).any():
            rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
            rows = rows[np.append((rows[1:] != rows[:-1]).any(axis=1), True)]
        self._slots = _free(max(_SLOTS_AT_FIRST, int((len(rows) + more) / _USED_SHARE)))
        # Each key goes to its home slot, or right after the previous key.
        turn = np.arange(len(rows))
        slots = self._homes(rows)
        slots -= turn
        np.maximum.accumulate(slots, out=slots)
        slots += turn
        # Keys past the end wrap around to free slots.
        fitting = int(np.searchsorted(slots, len(self._slots)))
        self._slots[slots[:fitting]] = rows[:fitting]
        self._used = fitting
        self._insert(rows[fitting:])


def rows_of(keys: Keys, refs: UserRefs) -> Keys:
    """Keys with their refs in the low bits."""
    rows = keys.copy()
    rows[:, 1] |= refs.astype(np.uint64)
    return rows


def _free(slots: int) -> Keys:
    return np.full((slots, 2), _FREE, np.uint64)


def _differ(some: Keys, others: Keys) -> npt.NDArray[np.bool_]:
    """Whether the keys differ, ignoring their refs."""
    lows = (some[:, 1] ^ others[:, 1]) >> np.uint64(USER_REF_BITS)
    return np.asarray((some[:, 0] != others[:, 0]) | (lows != 0))
