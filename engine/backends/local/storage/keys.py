"""The key space of the embedded backend: every family of keys in one place, version 6.

A key is one byte for its family, then its parts. Integers are big-endian, so byte order is numeric order. A
layout names the parts: `B` u8, `I` u32, `Q` u64, and `*` for bytes up to the end of the key, last only. Fewer
parts than declared make a prefix for scans. LMDB takes keys of at most 511 bytes.

Values are stored behind an 8-byte checksum of key and value (`storage.transactions`). Family numbers are
stored on disk: they never change and are never reused.

A missing key must not pass for an empty set. So each key is *announced*: another record says that it must
exist. Most are counted by ranges (`storage.key_ranges`): the keys of a family that share their first parts
are a range, and a RANGE record holds their number and the sum of their hashes. The rest are announced by a
record of another family:

====================  ======================================================================================
family                announced by
====================  ======================================================================================
USER_FILTER           USER_RUN: each run has one
USER_BLOCK            USER_RUN: one for each fence
PROFILE               PROFILED: the bitmap of users with a profile
FIELD_TEXT            FIELD_VALUE: its key, when that ends in a digest
DEDUPE_FILTER         DEDUPE_RUN: each run has one
DEDUPE_BLOCK          DEDUPE_RUN: one for each fence
REQUEST_ARRIVAL       REQUEST: its arrival. When missing, the answer is never deleted
EVENT_SLICE           EVENT_TABLE: rows and bytes of all its slices
EVENT_COLUMN          EVENT_SLICE: the columns of each part
any other             RANGE: a range with the number of parts that `Family` says
====================  ======================================================================================

Either environment

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
META                  name                                          `header`: MessagePack of `StoreHeader`;
                                                                    `session`: MessagePack of `Session`;
                                                                    `commit`: u64, transaction that wrote it
RANGE                 the first bytes of the range's keys           two u64: number of keys, sum of hashes
====================  ============================================  ==========================================
====================  ============================================  ==========================================

Log environment

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
META                  name                                          `trimmed`: MessagePack of a position
LOG                   position u64                                  compressed MessagePack of `LogEntry`
====================  ============================================  ==========================================

Index environment: names, users and their data. A *user* is a group u8 and a dense id u32; a *page* is dense
id >> 12; a *field* is what `name_table.Space.FIELD` numbers: an attribute of a workspace, a type of identity
or a consent. Bitmaps are those of `page_cache.BITMAP`.

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
META                  name                                          `folded`: `positions.CheckpointedState`;
                                                                    `cluster/…`: of a gateway, see
                                                                    `engine.backends.clickhouse.gateway.keys`
DOCUMENT              the document's key                            the document
NAME                  space u8, account u32, number u32             the name, UTF-8; empty when forgotten
USER_RUN              account u32, run u32                          MessagePack of `sorted_runs.RunRecord`
USER_FILTER           account u32, run u32                          Bloom filter, bits
USER_BLOCK            account u32, run u32, block u32               sorted items of `id_index.USER_RUNS`
ALIAS_OF              account u32, user id                          MessagePack of `directory.Alias`
ALIASES               account u32, user id                          MessagePack list: ids that are its aliases
USER_COUNT            account u32, group u8                         u32: the next dense id
USER_IDS              account u32, group u8, page u32               `id_pages.IdPage`
USER_PARTITIONS       account u32, group u8, page u32               u16[4,096] partitions
ALIVE                 account u32, group u8                         bitmap
PROFILE               account u32, group u8, dense id u32           as `profile_codec.ProfileCodec` writes it
PROFILED              account u32, group u8                         bitmap: users with a profile
FIELD_PRESENT         account u32, field u32, kind u8, group u8     bitmap
FIELD_VALUE           account u32, field u32, kind u8, group u8,    bitmap of users with that value, or
                      value                                         with that element in their list
FIELD_TEXT            as FIELD_VALUE, the value a digest            a string too long for a key
FIELD_COLUMN          account u32, field u32, kind u8, group u8,    `page_cache.column` of f64 or i64[4,096]
                      page u32
WRITE_TIMES           account u32, group u8, page u32               MessagePack of `write_times.PageSpans`
BELONGS               account u32, input u32, group u8              bitmap
SEEN                  account u32, input u32, group u8, page u32    i64[8,192]: first times, then last times
====================  ============================================  ==========================================

Index environment: deduplication and stored memberships.

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
DEDUPE_RUN            run u32                                       MessagePack of `sorted_runs.RunRecord`
DEDUPE_FILTER         run u32                                       Bloom filter, bits
DEDUPE_BLOCK          run u32, block u32                            sorted items of `dedupe.EVENT_ID_RUNS`
REQUEST               account u32, digest                           MessagePack of `dedupe.Answered`
REQUEST_ARRIVAL       arrival u64, account u32, digest              empty: finds expired answers
MEMBERSHIP            audience name                                 MessagePack of `states.StoredState`
MEMBERS               membership u32, group u8                      bitmap; it may lack the latest changes
CHANGES               membership u32, first sequence u64            MessagePack of `change_log.ChangeRecord`
ERASED                account u32, group u8, dense id u32           MessagePack of `erased.ErasedUser`
====================  ============================================  ==========================================

Index environment: event tables (`engine.backends.local.events`). A *table* is account u32, input u32, event
name u32, event type u8, group u8. A *slice* is a table, level u8 and the slice's number plus 2^31 as u32. A
*part* is a u32, unique within the table.

====================  ============================================  ==========================================
family                key parts                                     value
====================  ============================================  ==========================================
EVENT_TABLE           table                                         MessagePack of `TableRecord`
EVENT_SLICE           slice                                         MessagePack of `SliceRecord`: its parts
EVENT_COLUMN          slice, part, attribute u32, kind u8           one encoded column (`events.columns`)
EVENT_CHECKPOINT      account u32                                   u64: number of checkpoints with event rows
====================  ============================================  ==========================================
"""

from __future__ import annotations

import enum
import struct

KEY_BYTES_MAX = 511
CLUSTER = b"cluster/"
"""How the names of the META records of a gateway begin. Only a gateway has such."""


class Family(enum.Enum):
    """A family of keys: its byte on disk, the layout of its parts, and how many of these name the range in
    which keys are counted; none when another record announces the keys.
    """

    META = (0x01, "*", 0)
    LOG = (0x02, "Q", 0)
    DOCUMENT = (0x03, "*", 0)
    NAME = (0x04, "BII", 0)
    RANGE = (0x05, "*", 0)
    ALIASES = (0x11, "I*", 1)
    USER_COUNT = (0x12, "IB", 1)
    USER_IDS = (0x13, "IBI", 1)
    USER_PARTITIONS = (0x14, "IBI", 1)
    ALIVE = (0x15, "IB", 1)
    USER_RUN = (0x16, "II", 1)
    USER_FILTER = (0x17, "II")
    USER_BLOCK = (0x18, "III")
    ALIAS_OF = (0x19, "I*", 1)
    PROFILE = (0x20, "IBI")
    FIELD_PRESENT = (0x21, "IIBB", 1)
    FIELD_VALUE = (0x22, "IIBB*", 4)
    FIELD_TEXT = (0x23, "IIBB*")
    FIELD_COLUMN = (0x24, "IIBBI", 2)
    WRITE_TIMES = (0x25, "IBI", 1)
    PROFILED = (0x26, "IB", 1)
    BELONGS = (0x28, "IIB", 1)
    SEEN = (0x29, "IIBI", 2)
    DEDUPE_RUN = (0x30, "I", 0)
    DEDUPE_FILTER = (0x31, "I")
    DEDUPE_BLOCK = (0x32, "II")
    REQUEST = (0x38, "I*", 1, 1)
    REQUEST_ARRIVAL = (0x39, "QI*")
    MEMBERSHIP = (0x40, "*", 0)
    MEMBERS = (0x41, "IB", 0)
    CHANGES = (0x42, "IQ", 0)
    ERASED = (0x43, "IBI", 0)
    EVENT_TABLE = (0x60, "IIIBB", 1)
    EVENT_SLICE = (0x61, "IIIBBBI")
    EVENT_COLUMN = (0x62, "IIIBBBIIIB")
    EVENT_CHECKPOINT = (0x63, "I", 0)

    def __init__(self, code: int, layout: str, range_parts: int | None = None, range_tail: int = 0) -> None:
        """`range_tail`: bytes of the key's last part that also belong to the range's name."""
        self.code = code
        self.layout = layout
        integers = layout.rstrip("*")
        # For each number of integer parts given, the packer of the family byte and those parts.
        self.packers = [struct.Struct(">B" + integers[:count]) for count in range(len(integers) + 1)]
        self.range_bytes = None if range_parts is None else self.packers[range_parts].size + range_tail
        """Length of the key prefix that names its range."""


_BY_CODE = {family.code: family for family in Family}
_RANGE_BYTES = [_BY_CODE[code].range_bytes if code in _BY_CODE else None for code in range(256)]


def key(family: Family, *parts: int | bytes) -> bytes:
    """The key of those parts, or, with fewer parts than the layout declares, the prefix of all such keys."""
    packers = family.packers
    if len(parts) < len(packers):
        return packers[len(parts)].pack(family.code, *parts)
    *numbers, tail = parts
    if len(numbers) != len(packers) - 1 or not isinstance(tail, bytes) or not family.layout.endswith("*"):
        raise ValueError(f"{family.name} keys have the layout {family.layout}")
    return packers[-1].pack(family.code, *numbers) + tail


PAGE_KEYS_KEPT = 1 << 12
"""Keys of pages that functions keep: small batches write to the same pages again and again."""


def parts_of(key: bytes) -> tuple[int | bytes, ...]:
    """The inverse of `key` for a whole key."""
    family = family_of(key)
    packer = family.packers[-1]
    numbers: tuple[int, ...] = packer.unpack_from(key)[1:]
    return (*numbers, key[packer.size :]) if family.layout.endswith("*") else numbers


def family_of(key: bytes) -> Family:
    """The family a key belongs to. Raises KeyError for an unknown family byte."""
    return _BY_CODE[key[0]]


def range_bytes_of(key: bytes) -> int | None:
    """Length of the prefix that names the range the key is counted in; None when another record announces the
    key.
    """
    return _RANGE_BYTES[key[0]]
