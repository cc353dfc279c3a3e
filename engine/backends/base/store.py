"""What every backend is, whatever its roles: a store with an identity and a newest revision."""

from __future__ import annotations

from enum import Enum
from typing import Protocol, runtime_checkable

import msgspec

from engine.values import Micros


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures about the store as a whole. Sizes in bytes; 0 where the store does not know."""

    store_id: str
    revision: int
    users: int
    events: int
    disk_bytes: int
    log_bytes: int
    """Of `disk_bytes`, what a write-ahead log takes."""


class Role(Enum):
    """What a backend may do; `engine.backends.base.backend.PROTOCOLS` says by which methods."""

    PLANS = "plans"
    WRITING = "writing"
    USERS = "users"
    CATALOG = "catalog"
    MEMBERSHIP = "membership"
    DOCUMENTS = "documents"
    UPKEEP = "upkeep"


class Capabilities(msgspec.Struct, frozen=True):
    """The name a backend is registered under, and the roles it has."""

    name: str
    roles: frozenset[Role]


@runtime_checkable
class Store(Protocol):
    """A store that was opened."""

    @property
    def store_id(self) -> str:
        """Random, fixed at creation: revisions of another store are told apart by it."""
        ...

    def revision(self) -> int:
        """The newest visible revision."""
        ...

    def newest_arrival(self) -> Micros:
        """When the newest write arrived, by the clock it was stamped with; 0 when there is none."""
        ...

    def stats(self) -> Stats:
        """The figures that cost nothing to ask for."""
        ...

    def capabilities(self) -> Capabilities:
        """What this store can do. Costs nothing, and never changes."""
        ...

    def close(self) -> None:
        """Lets go of everything. Whoever waits gets StoreUnavailable; closing twice is allowed."""
        ...
