"""Ordinals: one number for every user of an account, so that a set of its users is one bitmap.

The store keeps sets by group. A step of a plan then takes a call of Roaring or numpy for each group, and when
sets are small the calls cost more than their work. A question about everyone therefore works on ordinals: a
group's dense ids, shifted by the group's place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from pyroaring import BitMap

from engine.backends.local.storage.arrays import Bools, runs
from engine.backends.local.storage.bitmaps import (
    CONTAINER_IDS,
    bitmap_of,
    bitmap_of_mask,
    ids_of,
    joined_stored,
)
from engine.backends.local.storage.page_cache import PAGE_USERS

ORDINALS_MAX = 1 << 32
"""What a Roaring bitmap holds."""

MASKED_AT_ONCE = 1 << 20
"""Ordinals whose mask becomes a set at once: a fraction of a millisecond, a megabyte."""

FEW_ORDINALS_MAX = 1 << 12
"""Up to this many ordinals are split into groups as an array, which is faster than set operations on few."""


class Ordinals:
    """The ordinals of an account: group × `stride` + dense id. `counts`: the dense ids of each group."""

    def __init__(self, counts: Sequence[int]) -> None:
        most = max(counts, default=0)
        # Room to grow, so that sets stay in use for a while; at most a quarter of it is empty.
        step = max(PAGE_USERS, 1 << max(0, most.bit_length() - 2))
        self.stride = max(1, -(-most // step)) * step
        self.groups = len(counts)
        self.place = -self.stride
        """Stands for a group where sets are kept by group. Ordinals of one stride agree."""

    @property
    def size(self) -> int:
        """Number of ordinals."""
        return self.stride * self.groups

    def hold(self, counts: Sequence[int]) -> bool:
        """Whether groups with these numbers of dense ids have ordinals."""
        return self.size <= ORDINALS_MAX and max(counts, default=0) <= self.stride

    def joined(self, sets: Iterable[tuple[int, BitMap]]) -> BitMap:
        """The users of some groups, given by dense id, in order of group."""
        users = BitMap(optimize=False)
        for group, dense in sets:
            if dense:
                users |= dense.shift(group * self.stride)
        return users

    def joined_stored(self, sets: Iterable[tuple[int, BitMap | bytes]]) -> BitMap:
        """As `joined`; a set may be serialised."""
        if self.stride % CONTAINER_IDS:
            return self.joined(
                (group, dense if isinstance(dense, BitMap) else BitMap.deserialize(dense))
                for group, dense in sets
            )
        stored: list[tuple[int, bytes]] = []
        others: list[tuple[int, BitMap]] = []
        for group, dense in sets:
            if isinstance(dense, BitMap):
                others.append((group, dense))
            else:
                stored.append((group * self.stride // CONTAINER_IDS, dense))
        users = joined_stored(stored)
        return users | self.joined(others) if others else users

    def of_masks(self, masks: Iterable[Bools | None]) -> BitMap:
        """The users whose dense id is true in the mask of their group; one mask, or None, for each group."""
        users = BitMap(optimize=False)
        at_once = max(1, MASKED_AT_ONCE // self.stride)
        mask: Bools = np.zeros(0, np.bool_)
        for group, found in enumerate(masks):
            place = group % at_once
            if not place:
                mask = np.zeros(min(at_once, self.groups - group) * self.stride, np.bool_)
            if found is not None:
                mask[place * self.stride : place * self.stride + len(found)] = found
            if place == at_once - 1 or group == self.groups - 1:
                users |= bitmap_of_mask(mask).shift((group - place) * self.stride)
        return users

    def by_group(self, users: BitMap) -> Iterator[tuple[int, BitMap]]:
        """The groups that some users belong to, in order, with their dense ids."""
        if not users:
            return
        if len(users) <= FEW_ORDINALS_MAX:
            ordinals = ids_of(users)
            groups = ordinals // self.stride
            bounds = runs(groups).tolist()
            for start, end in itertools.pairwise(bounds):
                number = int(groups[start])
                yield number, bitmap_of(ordinals[start:end] - np.uint32(number * self.stride))
            return
        at: int | None = users.next_set_bit(0)
        while at is not None:
            group = at // self.stride
            first, after = group * self.stride, (group + 1) * self.stride
            yield group, (users & BitMap(range(first, after))).shift(-first)
            at = users.next_set_bit(after) if after < ORDINALS_MAX and users.max() >= after else None
