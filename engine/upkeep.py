"""What is told of a store as a whole: figures by kind, and what a verification finds.

Operators read these; nothing here is needed to answer a question about users.
"""

from __future__ import annotations

from typing import TypeAlias

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
    """Everything that can be counted about a store.

    While `is_purging`, checkpoints are still to rewrite rows that were removed; `events` counts them until
    then.
    """

    store_id: str
    format_version: int
    revision: int
    checkpointed_revision: int
    users: int
    events: int
    is_purging: bool
    kinds: tuple[StoredKind, ...]
    files: tuple[StoreFile, ...]


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
