"""Reading users (`engine.backends.base.UserReader`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from engine.backends.local.roles.open_store import AccountForgotten, OpenStore
from engine.backends.local.write.state import P
from engine.errors import InvalidInput
from engine.values import PARTITION_COUNT


class Users(OpenStore[P]):
    """Counts users, and draws samples of them."""

    def sample_partitions(self, partition_count: int) -> tuple[int, ...]:
        """The first partitions in the sampling order of the store: one whole group after the other."""
        if not 1 <= partition_count <= PARTITION_COUNT:
            raise InvalidInput.one("partition_count", f"1 to {PARTITION_COUNT}")
        return self._store.partitions.order[:partition_count]

    def smallest_sample(self) -> int:
        """A group: its bitmaps are read whole."""
        return PARTITION_COUNT // self._store.groups

    def universe_size(self, account: str, inputs: Sequence[str]) -> int:
        """Number of users that belong to at least one of the inputs."""
        with suppress(AccountForgotten), self._read(None, account) as (found, read):
            return 0 if found is None else found.universe_size(inputs, read.pause)
        return 0
