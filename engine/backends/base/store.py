"""What every backend is, whatever its roles: a store with an identity and a latest revision."""

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
    """The part of `disk_bytes` taken by a write-ahead log."""


class Role(Enum):
    """Roles of a backend; `engine.backends.base.backend.PROTOCOLS` maps them to protocols."""

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
    """An open store."""

    @property
    def store_id(self) -> str:
        """Random, fixed at creation. Tells apart revisions of different stores."""
        ...

    def revision(self) -> int:
        """The latest visible revision."""
        ...

    def newest_arrival(self) -> Micros:
        """Arrival time of the latest write, by the clock that stamped it; 0 when there is none."""
        ...

    def stats(self) -> Stats:
        """Figures that are free to read."""
        ...

    def capabilities(self) -> Capabilities:
        """Roles of this store. Free to read and constant."""
        ...

    def close(self) -> None:
        """Releases everything. Waiters get StoreUnavailable; closing twice is allowed."""
        ...
