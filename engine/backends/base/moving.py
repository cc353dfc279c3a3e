"""Moving a store into one of another kind: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec


class MoveProgress(msgspec.Struct, frozen=True):
    """How many pages of rows a step is done with, and how many there are."""

    step: str
    pages: int
    pages_total: int


Told: TypeAlias = Callable[[MoveProgress], None]
"""Takes the progress of a move."""


class PartitionDifference(msgspec.Struct, frozen=True, kw_only=True):
    """A partition of an account that is not on a server as it is in the source."""

    account: str
    partition: int
    server: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"partition {self.partition} of {self.account} on {self.server}: {'; '.join(self.reasons)}"


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome, by what the source has. With differences the new store is not complete, and not served."""

    revision: int
    users: int
    rows: dict[str, int]
    """By table."""
    differences: tuple[PartitionDifference, ...]
