"""Places of users seen lately, found for a whole batch at once.

An open-addressing hash table in numpy arrays: two halves of a 128-bit XXH3 of the user id, and the place, 24
bytes a slot. Beside a dict of strings it takes a fifth of the memory, and a batch is looked up in a few
vectorised probes. The hash stands for the id, as it does for event ids; it is keyed with a seed drawn when
the process starts, so that nobody can prepare ids that collide. It is a cache: what is not here is in the
index.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import xxhash

Hashes: TypeAlias = npt.NDArray[np.uint64]
"""Shape (n, 2): the halves of the hash of each user id."""
Places: TypeAlias = npt.NDArray[np.int64]

UNKNOWN = -1
"""In place of a place: the index has to be asked."""

_EMPTY = -2
_SLOTS_AT_FIRST = 1 << 12
_USED_SHARE_MAX = 0.5


class KnownUsers:
    """Hash of a user id → place, for at most `users_max` users; then it starts anew."""

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._seed = secrets.randbits(64)
        self._clear(_SLOTS_AT_FIRST)

    def _clear(self, slots: int) -> None:
        self._halves = np.zeros((slots, 2), np.uint64)
        self._places = np.full(slots, _EMPTY, np.int64)
        self._used = 0

    def hashes(self, user_ids: Sequence[str]) -> Hashes:
        """The hashes of user ids, in order."""
        digests = map(xxhash.xxh3_128_digest, map(str.encode, user_ids), itertools.repeat(self._seed))
        return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)

    def find(self, hashes: Hashes) -> Places:
        """The place of each, or UNKNOWN."""
        return self._places_in(self._probe(hashes))

    def _places_in(self, slots: Places) -> Places:
        places = self._places[slots]
        places[places == _EMPTY] = UNKNOWN
        return places

    def _probe(self, hashes: Hashes) -> Places:
        """For each hash the slot that has it, or the empty one where it belongs."""
        mask = len(self._places) - 1
        slots = (hashes[:, 1] & np.uint64(mask)).astype(np.int64)
        left = np.arange(len(hashes))
        while len(left):
            at = slots[left]
            other = _differ(self._halves[at], hashes[left]) & (self._places[at] != _EMPTY)
            left = left[other]
            slots[left] = (slots[left] + 1) & mask
        return slots

    def put(self, hashes: Hashes, places: Places) -> None:
        """Remembers the places of different hashes; UNKNOWN forgets one."""
        self._make_room(len(hashes))
        while len(hashes):
            slots = self._probe(hashes)
            fresh = self._places[slots] == _EMPTY
            self._halves[slots] = hashes
            self._places[slots] = places
            # Two that are new may have met in one slot, where the last of them stayed.
            lost = _differ(self._halves[slots], hashes)
            self._used += int(np.count_nonzero(fresh & ~lost))
            hashes, places = hashes[lost], places[lost]

    def _make_room(self, count: int) -> None:
        needed = self._used + count
        if needed <= len(self._places) * _USED_SHARE_MAX:
            return
        slots = _SLOTS_AT_FIRST
        while slots * _USED_SHARE_MAX < 2 * needed:
            slots *= 2
        if needed > self._users_max:
            self._clear(max(_SLOTS_AT_FIRST, slots // 2))
            return
        kept = self._places >= 0
        halves, places = self._halves[kept], self._places[kept]
        self._clear(slots)
        self.put(halves, places)


def _differ(some: Hashes, others: Hashes) -> npt.NDArray[np.bool_]:
    differ: npt.NDArray[np.bool_] = (some[:, 0] != others[:, 0]) | (some[:, 1] != others[:, 1])
    return differ
