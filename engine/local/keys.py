"""The key space of the embedded backend: every family of keys in one place, version 1.

A key is one byte for its family, then its parts, integers big-endian so that byte order is number order. A
layout names the parts: `B` u8, `I` u32, `Q` u64, and `*` for bytes up to the end of the key, last only. Fewer
parts than declared make a prefix for scans. LMDB takes keys of at most 511 bytes.

Values carry an 8-byte checksum in front of what the tables below describe (`engine.local.environment`).
Numbers of families are stored on disk: they are never changed and never given to another family.

Either environment

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
META                  name                                          `header`: MessagePack of `StoreHeader`
====================  ============================================  ==========================================

Index environment: event tables (`engine.local.events`). A *table* is account u32, input u32, event name u32,
event type u8, group u8. A *slice* is a table, level u8 and the slice's index plus 2^31 as u32. *part* is a
u32 that the table gives out once.

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
EVENT_TABLE           table                                         MessagePack of `TableRecord`
EVENT_SLICE           slice                                         MessagePack of `SliceRecord`: its parts
EVENT_COLUMN          slice, part, attribute u32, kind u8           one encoded column (`events.columns`)
====================  ============================================  ==========================================
"""

from __future__ import annotations

import enum
import struct

KEY_BYTES_MAX = 511


class Family(enum.Enum):
    """A family of keys: its byte on disk and the layout of its parts."""

    META = (0x01, "*")
    EVENT_TABLE = (0x60, "IIIBB")
    EVENT_SLICE = (0x61, "IIIBBBI")
    EVENT_COLUMN = (0x62, "IIIBBBIIIB")

    def __init__(self, code: int, layout: str) -> None:
        self.code = code
        self.layout = layout


_BY_CODE = {family.code: family for family in Family}

# For each number of integer parts given, the packer of the family byte and those parts.
_PACKERS = {
    family: [
        struct.Struct(">B" + family.layout.rstrip("*")[:count])
        for count in range(len(family.layout.rstrip("*")) + 1)
    ]
    for family in Family
}


def key(family: Family, *parts: int | bytes) -> bytes:
    """The key of those parts, or, with fewer parts than the layout declares, the prefix of all such keys."""
    packers = _PACKERS[family]
    if len(parts) < len(packers):
        return packers[len(parts)].pack(family.code, *parts)
    *numbers, tail = parts
    if len(numbers) != len(packers) - 1 or not isinstance(tail, bytes) or not family.layout.endswith("*"):
        raise ValueError(f"{family.name} keys have the layout {family.layout}")
    return packers[-1].pack(family.code, *numbers) + tail


def parts_of(key: bytes) -> tuple[int | bytes, ...]:
    """The inverse of `key` for a whole key."""
    family = family_of(key)
    packer = _PACKERS[family][-1]
    numbers: tuple[int, ...] = packer.unpack_from(key)[1:]
    return (*numbers, key[packer.size :]) if family.layout.endswith("*") else numbers


def family_of(key: bytes) -> Family:
    """The family a key belongs to. Raises KeyError for a byte that no family has."""
    return _BY_CODE[key[0]]
