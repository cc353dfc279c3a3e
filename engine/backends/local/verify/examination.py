"""State shared by the checkers: sound values, results of earlier checkers, and reported faults."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pyroaring import BitMap

from engine.backends.base.upkeep import StoreFault
from engine.backends.local.storage.header import GROUPS_MAX
from engine.backends.local.storage.key_ranges import KeyCounts
from engine.backends.local.storage.keys import Family, parts_of
from engine.backends.local.storage.page_cache import U32_BYTES
from engine.backends.local.storage.transactions import ReadTransaction

T = TypeVar("T")

Sets = dict[tuple[int, ...], BitMap]
"""Sets of dense ids by the numbers of their keys."""


@dataclass(slots=True)
class Count:
    """What was read of a family."""

    keys: int = 0
    bytes: int = 0
    faults: int = 0


class Found(NamedTuple, Generic[T]):
    """A sound value: the parts of its key, the key, and the decoded value."""

    parts: tuple[Any, ...]
    key: bytes
    value: T


class Examination:
    """A running verification."""

    def __init__(self, log: ReadTransaction, index: ReadTransaction) -> None:
        self.log = log
        self.index = index
        self.counts = {family: Count() for family in Family}
        self._faults: deque[StoreFault] = deque()
        self._damaged: set[Family] = set()
        # Results for later checkers.
        self.store_id = ""
        self.seed = 0
        self.checkpointed = 0
        self.logged = 0
        self.trimmed: int | None = None
        """The position up to which the log was trimmed."""
        self.forgotten: set[str] = set()
        """Resources that are forgotten in the log and not yet in the index."""
        self.groups = GROUPS_MAX
        self.names: dict[tuple[int, int], dict[int, str]] = {}
        """By name space and account."""
        self.user_counts: dict[tuple[int, int], int] = {}
        """By account and group, the next dense id."""
        self.user_hashes: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}
        """By account and group, XXH3-64 of the id of each user, 0 for erased ones."""
        self.user_keys: dict[tuple[int, int], npt.NDArray[np.uint64]] = {}
        """By account and group, the entry of each user in the user id index."""
        self.key_counts = {log: KeyCounts(), index: KeyCounts()}
        """By environment, the number of keys read of each range."""
        self.alive: Sets = {}
        self.belongs: Sets = {}

    # --- reading --------------------------------------------------------------------------------------------

    def values(
        self, family: Family, decode: Callable[[memoryview], T], txn: ReadTransaction | None = None
    ) -> Iterator[Found[T]]:
        """Every value of a family that passes its checksum and can be decoded. The others are reported as
        faults.

        A value that is a view is valid until the verification ends.
        """
        count = self.counts[family]
        txn = txn or self.index
        before = b""
        for stored, size, value in txn.walk(bytes([family.code])):
            count.keys += 1
            count.bytes += size
            self.key_counts[txn].add(stored)
            if stored <= before or not txn.contains(stored):
                self.damage(family, "is not at the position of its key", stored)
            before = stored
            try:
                parts = _parts_of(family, stored)
            except Exception:
                self.damage(family, "has a malformed key", stored)
                continue
            if value is None:
                self.damage(family, "fails its checksum", stored)
                continue
            try:
                decoded = decode(value)
            except Exception as error:
                # Decoders may raise anything on foreign bytes.
                self.damage(family, f"cannot be decoded: {error}", stored)
                continue
            yield Found(parts, stored, decoded)

    def damage(self, family: Family, description: str, stored: bytes) -> None:
        """Reports an unreadable value: nothing is compared with its family."""
        self._damaged.add(family)
        self.fault(family, description, stored)

    def is_sound(self, *families: Family) -> bool:
        """Whether every value of these families could be read, so that comparing with them makes sense."""
        return self._damaged.isdisjoint(families)

    def set_of(self, sets: Sets, *numbers: int) -> BitMap:
        """The set under these numbers; an empty one is not stored."""
        return sets.get(numbers) or BitMap()

    # --- reporting ------------------------------------------------------------------------------------------

    def fault(self, family: Family, description: str, stored: bytes = b"") -> None:
        """Reports a fault in a family, or in the value of one of its keys."""
        self.counts[family].faults += 1
        self._faults.append(StoreFault(family.name, readable(stored), description))

    def expect(self, holds: bool, family: Family, description: str, stored: bytes = b"") -> None:
        """Reports a fault unless the condition holds."""
        if not holds:
            self.fault(family, description, stored)

    @property
    def has_faults(self) -> bool:
        """Whether a fault was reported."""
        return any(count.faults for count in self.counts.values())

    def take_faults(self) -> Iterator[StoreFault]:
        """The faults reported since the last call."""
        while self._faults:
            yield self._faults.popleft()


def readable(stored: bytes) -> str:
    """A readable form of a key: its numbers, and its tail as text when it is text."""
    if not stored:
        return ""
    try:
        parts = parts_of(stored)
    except Exception:
        return stored.hex()
    return "/".join(_part(part) for part in parts)


def _part(part: int | bytes) -> str:
    if isinstance(part, int):
        return str(part)
    try:
        text = part.decode()
    except UnicodeDecodeError:
        return part.hex()
    return text if text.isprintable() else part.hex()


def _parts_of(family: Family, stored: bytes) -> tuple[Any, ...]:
    size = family.packers[-1].size
    if len(stored) != size and not (family.layout.endswith("*") and len(stored) > size):
        raise ValueError(f"a key of {family.name} has {size} bytes")
    return parts_of(stored)


def as_text(value: memoryview) -> str:
    """A value that is UTF-8."""
    return bytes(value).decode()


def as_is(value: memoryview) -> memoryview:
    """A value of free form."""
    return value


def as_u32(value: memoryview) -> int:
    """A little-endian number of four bytes."""
    if len(value) != U32_BYTES:
        raise ValueError(f"{len(value)} bytes instead of {U32_BYTES}")
    return int.from_bytes(value, "little")
