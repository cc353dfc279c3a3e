"""Halvings: how much a set of users varies between the partitions of a group.

The partitions of a group are halved in several independent ways (rows of a Hadamard matrix over their
sampling order). In a simple random sample, the members in a half deviate from their share only by chance.
Where whole partitions are alike, they deviate more. Counting halves takes a few microseconds each; counting
every partition takes as long as the question itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.local.storage.bitmaps import bitmap_of, bitmap_of_mask, ids_of

HALVINGS_MAX = 32

SPARSE_SHARE = 12
"""A set with fewer users than one twelfth of the group is counted partition by partition."""


class Halvings:
    """The halves of one group. Dense ids are added in order. Erased users keep theirs and are in no set."""

    def __init__(self, partitions: int) -> None:
        numbers = np.arange(partitions)
        ways = range(1, min(HALVINGS_MAX + 1, partitions))
        self._in_half = np.array([[bin(n & way).count("1") & 1 for way in ways] for n in numbers], np.bool_)
        self._weights = self._in_half.astype(np.int64)
        self._ranks = np.empty(0, np.uint16)
        self._halves: list[BitMap] = []

    @property
    def known(self) -> int:
        """Number of dense ids added."""
        return len(self._ranks)

    def extend(self, ranks: npt.NDArray[np.uint16]) -> None:
        """Adds the next dense ids, each by the position of its partition in the group."""
        first = self.known
        self._ranks = np.concatenate((self._ranks, ranks))
        sides = self._in_half[ranks]
        if not first:
            self._halves = [bitmap_of_mask(sides[:, way]) for way in range(sides.shape[1])]
            return
        for way, half in enumerate(self._halves):
            half |= bitmap_of((first + np.flatnonzero(sides[:, way])).astype(np.uint32))

    def sums(self, by_rank: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """The sum in each half, of a number for each partition by its position in the group."""
        return tuple((by_rank @ self._weights).tolist())

    def counts(self, users: BitMap) -> tuple[int, ...]:
        """Number of the users in each half."""
        if len(users) * SPARSE_SHARE < self.known:
            by_rank = np.bincount(self._ranks[ids_of(users)], minlength=len(self._weights))
            return self.sums(by_rank)
        return tuple(users.intersection_cardinality(half) for half in self._halves)
