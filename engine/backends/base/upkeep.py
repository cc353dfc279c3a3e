"""Upkeep: copies, figures and verification of a store as a whole. An optional role.

For operators; no question about users needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec


class StoredKind(msgspec.Struct, frozen=True):
    """The number of keys of one kind of data, and the bytes of those keys and their values, checksums
    included.

    The pages that hold them on disk are counted in `StoreFile`.
    """

    kind: str
    keys: int
    bytes: int


class StoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a store, in bytes. `free_bytes` are reused inside the file; a file never shrinks by itself.
    `limit_bytes` is its maximum size; 0 when the embedding process sets it.
    """

    name: str
    disk_bytes: int
    file_bytes: int
    used_bytes: int
    free_bytes: int
    limit_bytes: int


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a store. Figures that a backend does not have keep their defaults.

    While `is_purging`, removed rows are still to be rewritten; until then `events` includes them.
    """

    store_id: str
    revision: int
    users: int
    events: int
    kinds: tuple[StoredKind, ...] = ()
    files: tuple[StoreFile, ...] = ()
    is_purging: bool = False
    checkpointed_revision: int = 0
    """The last revision that the index holds completely at a start; 0 when a start replays nothing."""
    format_version: int = 0
    """0 when the backend's files have no version."""


class FamilyFigures(msgspec.Struct, frozen=True):
    """One family of keys in a verification: keys, bytes of keys and values, and faults found."""

    family: str
    kind: str
    keys: int
    bytes: int
    faults: int


class StoreProgress(msgspec.Struct, frozen=True):
    """Progress of a verification."""

    keys: int
    keys_total: int
    bytes: int


class StoreFault(msgspec.Struct, frozen=True):
    """An inconsistency: the family it was found in, the key in readable form ("" when several are involved),
    and what is wrong.
    """

    family: str
    key: str
    description: str


class StoreVerified(msgspec.Struct, frozen=True):
    """The result of a verification: what was read, the state and store it belongs to ("" when no header was
    readable), and the number of faults reported.
    """

    store_id: str
    revision: int
    families: tuple[FamilyFigures, ...]
    faults: int


Finding: TypeAlias = StoreProgress | StoreFault | StoreVerified


@runtime_checkable
class Upkeep(Protocol):
    """Copies, counts and verifies what is stored, while reads and writes go on."""

    def snapshot(self, directory: Path, may_go_on: Callable[[], None] = lambda: None) -> None:
        """Writes a consistent copy into an empty or missing directory, while reads and writes go on.

        `may_go_on` is called every few megabytes and ends the work by raising. What is written by then stays.
        """
        ...

    def figures(self, deadline: float | None = None) -> StoreFigures:
        """All figures. Reads every key but no value, and blocks nothing. Raises
        DeadlineExceeded.
        """
        ...

    def verify(self) -> Iterator[Finding]:
        """Reads and cross-checks everything stored, in one state of the store, while reads and writes go on:
        faults as they are found, progress from time to time, and a final `StoreVerified`. Closing the
        iterator stops the work. Raises FailedPrecondition while another verification runs.
        """
        ...
