"""The group of each partition, and the order in which partitions are sampled.

Both are drawn from the store's secret seed. A partition follows from the public hash of a user id. An
attribute made from the same hash, as external experiment buckets are, may follow the partitions too, and a
predictable sample would then not be random with respect to it.

Stores created before groups were drawn keep theirs: runs of neighbouring partitions. Their sampling order is
drawn all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from engine.values import PARTITION_COUNT, partition_of

_SEED_BYTES = 8
_NUMBER_BYTES = 4


class PartitionOrder:
    """The partitions of one store in their sampling order: whole groups, one after the other."""

    def __init__(self, groups: int, seed: int, *, drawn_groups: bool) -> None:
        size = PARTITION_COUNT // groups
        if drawn_groups:
            self.order = _drawn(range(PARTITION_COUNT), seed, b"partitions")
        else:
            self.order = tuple(
                partition
                for group in _drawn(range(groups), seed, b"groups")
                for partition in _drawn(range(group * size, (group + 1) * size), seed, b"partitions")
            )
        self.drawn_groups = drawn_groups
        self.group_of = np.empty(PARTITION_COUNT, np.int64)
        """The group of each partition."""
        self.rank_in_group = np.empty(PARTITION_COUNT, np.uint16)
        """The position of each partition in the sampling order of its group, from 0."""
        self._partitions: list[frozenset[int]] = [frozenset()] * groups
        self.groups: tuple[int, ...] = ()
        """The groups in the order in which they are sampled."""
        for run in range(groups):
            here = self.order[run * size : (run + 1) * size]
            group = run if drawn_groups else here[0] // size
            self.group_of[list(here)] = group
            self.rank_in_group[list(here)] = np.arange(size)
            self._partitions[group] = frozenset(here)
            self.groups += (group,)

    def of_group(self, group: int) -> frozenset[int]:
        """The partitions of a group."""
        return self._partitions[group]

    def by_group(self, user_ids: Iterable[str]) -> dict[int, list[str]]:
        """User ids by their group."""
        found: dict[int, list[str]] = {}
        for user_id in user_ids:
            found.setdefault(int(self.group_of[partition_of(user_id)]), []).append(user_id)
        return found


def _drawn(numbers: Iterable[int], seed: int, purpose: bytes) -> tuple[int, ...]:
    """The numbers in an order that depends only on the seed and reveals nothing about it."""
    keyed = seed.to_bytes(_SEED_BYTES, "little")

    def sampling_key(number: int) -> bytes:
        text = number.to_bytes(_NUMBER_BYTES, "little")
        return hashlib.blake2b(text, key=keyed, person=purpose, digest_size=16).digest()

    return tuple(sorted(numbers, key=sampling_key))
