"""Upkeep: copies, figures and verification of a store as a whole. An optional role.

Operators read these; nothing here is needed to answer a question about users.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import msgspec


class StoredKind(msgspec.Struct, frozen=True):
    """How many keys hold data of one kind, and the bytes of those keys and their values, checksums included.

    What the pages around them take on disk is in `StoreFile`.
    """

    kind: str
    keys: int
    bytes: int


class StoreFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a store, in bytes. `free_bytes` wait inside the file to be used again; a file never shrinks
    by itself. `limit_bytes` is the most it may grow to, 0 when that is for whoever serves it to say.
    """

    name: str
    disk_bytes: int
    file_bytes: int
    used_bytes: int
    free_bytes: int
    limit_bytes: int


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be counted about a store. What a backend does not have keeps its default.

    While `is_purging`, rows that were removed are still to be rewritten; `events` counts them until then.
    """

    store_id: str
    revision: int
    users: int
    events: int
    kinds: tuple[StoredKind, ...] = ()
    files: tuple[StoreFile, ...] = ()
    is_purging: bool = False
    checkpointed_revision: int = 0
    """Through which revision a start finds everything in the index; 0 when a start replays nothing."""
    format_version: int = 0
    """0 when the backend's files have none."""


class FamilyFigures(msgspec.Struct, frozen=True):
    """One family of keys as a verification met it: keys, bytes of keys and values, and faults found."""

    family: str
    kind: str
    keys: int
    bytes: int
    faults: int


class StoreProgress(msgspec.Struct, frozen=True):
    """How far a verification has come."""

    keys: int
    keys_total: int
    bytes: int


class StoreFault(msgspec.Struct, frozen=True):
    """Something that must not be: the family it was found in, the key in readable form ("" when it concerns
    more than one), and what is wrong.
    """

    family: str
    key: str
    description: str


class StoreVerified(msgspec.Struct, frozen=True):
    """The end of a verification: what was walked, of which state of which store ("" when no header could be
    read), and how many faults were told before.
    """

    store_id: str
    revision: int
    families: tuple[FamilyFigures, ...]
    faults: int


Finding: TypeAlias = StoreProgress | StoreFault | StoreVerified


@runtime_checkable
class Upkeep(Protocol):
    """Copies, counts and verifies what is stored, while reads and writes go on."""

    def snapshot(self, directory: Path) -> None:
        """Writes a consistent copy into an empty or missing directory, while reads and writes go on."""
        ...

    def figures(self, deadline: float | None = None) -> StoreFigures:
        """All figures. Reads every key, though no value, without holding up anybody. Raises
        DeadlineExceeded.
        """
        ...

    def verify(self) -> Iterator[Finding]:
        """Reads and cross-checks everything that is stored, in one state of the store, while reads and writes
        go on: faults as they are found, progress now and then, and a `StoreVerified` last. Whoever closes the
        iterator ends the work. Raises FailedPrecondition while another verification is under way.
        """
        ...
