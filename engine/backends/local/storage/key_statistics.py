"""Number of keys and bytes of each kind of data, counted over one state of the store."""

from __future__ import annotations

from collections.abc import Callable

from engine.backends.base.upkeep import StoredKind
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.transactions import ReadTransaction

KINDS: dict[Family, str] = {
    Family.META: "store",
    Family.RANGE: "store",
    Family.LOG: "log",
    Family.DOCUMENT: "resources",
    Family.NAME: "names",
    Family.USER_RUN: "users",
    Family.USER_FILTER: "users",
    Family.USER_BLOCK: "users",
    Family.ALIAS_OF: "users",
    Family.ALIASES: "users",
    Family.USER_COUNT: "users",
    Family.USER_IDS: "users",
    Family.USER_PARTITIONS: "users",
    Family.ALIVE: "users",
    Family.PROFILE: "profiles",
    Family.PROFILED: "users",
    Family.FIELD_PRESENT: "attribute index",
    Family.FIELD_VALUE: "attribute index",
    Family.FIELD_TEXT: "attribute index",
    Family.FIELD_COLUMN: "attribute index",
    Family.WRITE_TIMES: "attribute index",
    Family.BELONGS: "inputs of users",
    Family.SEEN: "inputs of users",
    Family.DEDUPE_RUN: "event ids",
    Family.DEDUPE_FILTER: "event ids",
    Family.DEDUPE_BLOCK: "event ids",
    Family.REQUEST: "request ids",
    Family.REQUEST_ARRIVAL: "request ids",
    Family.MEMBERSHIP: "memberships",
    Family.MEMBERS: "memberships",
    Family.CHANGES: "change logs",
    Family.ERASED: "change logs",
    Family.EVENT_TABLE: "events",
    Family.EVENT_SLICE: "events",
    Family.EVENT_COLUMN: "events",
    Family.EVENT_CHECKPOINT: "events",
}
"""The operator-facing name of a family's data."""

LOG_FAMILIES = (Family.META, Family.RANGE, Family.LOG)
INDEX_FAMILIES = tuple(family for family in Family if family is not Family.LOG)

KEYS_PER_CHECK = 4_096


def stored_kinds(
    log: ReadTransaction, index: ReadTransaction, check: Callable[[], None] = lambda: None
) -> tuple[StoredKind, ...]:
    """Every kind in the order of `KINDS`, including those without keys. `check` is called from time to time
    and may raise.
    """
    found = {kind: [0, 0] for kind in KINDS.values()}
    for txn, families in ((log, LOG_FAMILIES), (index, INDEX_FAMILIES)):
        for family in families:
            keys, total = _counted(txn, family, check)
            found[KINDS[family]][0] += keys
            found[KINDS[family]][1] += total
    return tuple(StoredKind(kind, keys, total) for kind, (keys, total) in found.items())


def _counted(txn: ReadTransaction, family: Family, check: Callable[[], None]) -> tuple[int, int]:
    check()
    keys = total = 0
    for size in txn.sizes(key(family)):
        keys += 1
        total += size
        if keys % KEYS_PER_CHECK == 0:
            check()
    return keys, total
