"""Users: profiles, counts, and the partitions that form a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from engine.criteria.model import ConsentState
from engine.values import Micros, Value


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything known about a user, except its events. Times are microseconds."""

    user_id: str
    seen: Mapping[str, tuple[Micros, Micros]]
    """For each input the user belongs to: first and last time."""
    attributes: Mapping[str, Mapping[str, tuple[Micros, Value]]]
    """Workspace → key → (time of the write, value)."""
    identities: Mapping[str, tuple[Micros, str]]
    consents: Mapping[tuple[str, str], tuple[Micros, ConsentState]]


@runtime_checkable
class UserReader(Protocol):
    """Reads single users, counts all of them, and draws samples of them."""

    def profile(self, account: str, user_id: str) -> Profile | None:
        """The profile of a user, or of the user an alias names; None when there is none."""
        ...

    def universe_size(self, account: str, inputs: Sequence[str]) -> int:
        """How many users belong to at least one of the inputs."""
        ...

    def sample_partitions(self, partition_count: int) -> tuple[int, ...]:
        """The first `partition_count` partitions in this backend's fixed sampling order, cheapest to read
        together.

        Fixed: the same users each time, and a smaller sample is contained in every larger one.
        """
        ...

    def smallest_sample(self) -> int:
        """Partitions of the smallest sample worth reading: fewer cost as much."""
        ...
