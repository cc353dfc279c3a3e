"""The tables of users' data, and the migrations that make them.

Every row has `p`, the user's partition, by which shards split the users; `seq`, its place in the order of
arrival; and `rev`, the revision that makes it visible. Rows are only ever added: the latest write of a fact
wins when it is read, and rows that do not count any more stay until they are swept.

`profiles` has what the rows of `facts` and `seen` come to, one row a user, up to the revision of a *base*
(`bases.py`). A statement decides users without later rows from it, without grouping. `bases` has the bases
that are complete on a server.

Event attributes that are *promoted* have columns of their own in `events` beside the maps.

`ids` says what ids in tables of others mean (`mapped.py`): whose they are, and from which row on they count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from engine.backends.clickhouse.query.literals import text
from engine.values import Kind

EVENTS, FACTS, SEEN = "events", "facts", "seen"
IDS = "ids"
PROFILES, BASES = "profiles", "bases"

VALUE_COLUMNS: Mapping[Kind, str] = {
    Kind.STRING: "strings",
    Kind.NUMBER: "numbers",
    Kind.BOOL: "bools",
    Kind.TIME: "times",
    Kind.LIST: "lists",
}
"""The map that has the attributes of a kind, in `events` and in `profiles`."""

COLUMNS: Mapping[str, tuple[str, ...]] = {
    EVENTS: (
        *("account", "name", "p", "user", "time", "input", "type", "seq", "rev"),
        *VALUE_COLUMNS.values(),
    ),
    FACTS: (
        *("account", "place", "key", "p", "user", "time", "seq", "rev"),
        *("kind", "number", "string", "whole", "list"),
    ),
    SEEN: ("account", "p", "user", "input", "first", "last", "rev"),
    IDS: ("account", "source", "p", "user", "owner", "since", "rev"),
}
"""The columns of each table, in the order in which rows are inserted."""

OF_USERS = (EVENTS, FACTS, SEEN)
"""The tables whose rows are data of a user, and go when it is erased."""

IDENTITY, CONSENT = "#identity", "#consent"
"""Places of facts that belong to no workspace; names of workspaces begin otherwise."""

UNSET = 0
"""The kind of a fact that was unset. The others are those of `engine.values.Kind`."""

HOT_MAX = 8
"""Attributes, identities and consents of an account that have columns of their own in `profiles`. The others
are in maps, of which a statement reads all keys.
"""

PROMOTED = "promoted_"
"""What the columns of event attributes begin with."""

DEDUPLICATED_INSERTS = 10_000
"""Latest inserts of a table whose tokens a server remembers: one sent again adds nothing."""


def consent_key(regulation: str, purpose: str) -> str:
    """The key of a consent."""
    return f"{regulation}\0{purpose}"


def fact_name(place: str, key: str) -> str:
    """The key of a fact in the maps of `profiles`."""
    return f"{place}\0{key}"


VALUES = ("kind", "string", "number", "whole", "list")
"""The columns that have a value of any kind, after a prefix."""


def promoted_prefix(key: str) -> str:
    """What the columns of an event attribute begin with: keys are longer than names may be."""
    return f"{PROMOTED}{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}_"


def promotion(key: str) -> str:
    """The changes to `events` that give an attribute columns of its own. A server computes them from the maps
    for rows that it had before, so they hold in each row from the beginning.
    """
    prefix, literal = promoted_prefix(key), text(key)
    kinds = (f"mapContains({VALUE_COLUMNS[kind]}, {literal}), {int(kind)}" for kind in VALUE_COLUMNS)
    bools, times = (f"{VALUE_COLUMNS[kind]}[{literal}]" for kind in (Kind.BOOL, Kind.TIME))
    is_bool = f"mapContains({VALUE_COLUMNS[Kind.BOOL]}, {literal})"
    columns = {
        "kind": ("UInt8", f"multiIf({', '.join(kinds)}, {UNSET})"),
        "string": ("String", f"{VALUE_COLUMNS[Kind.STRING]}[{literal}]"),
        "number": ("Float64", f"{VALUE_COLUMNS[Kind.NUMBER]}[{literal}]"),
        "whole": ("Int64", f"if({is_bool}, toInt64({bools}), {times})"),
        "list": ("Array(String)", f"{VALUE_COLUMNS[Kind.LIST]}[{literal}]"),
    }
    return ", ".join(
        f"ADD COLUMN IF NOT EXISTS {prefix}{value} {type_} MATERIALIZED {expression} CODEC(ZSTD(1))"
        for value, (type_, expression) in columns.items()
    )


def quoted(name: str) -> str:
    """A name in backticks."""
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


_EVENTS = """
    account LowCardinality(String),
    name LowCardinality(String),
    p UInt16,
    user String CODEC(ZSTD(1)),
    time Int64 CODEC(Delta, ZSTD(1)),
    input LowCardinality(String),
    type UInt8,
    seq UInt64 CODEC(Delta, ZSTD(1)),
    rev UInt64 CODEC(Delta, ZSTD(1)),
    strings Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    numbers Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    bools Map(LowCardinality(String), UInt8) CODEC(ZSTD(1)),
    times Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    lists Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)),
    INDEX by_rev rev TYPE minmax GRANULARITY 1
"""
_FACTS = """
    account LowCardinality(String),
    place LowCardinality(String),
    key LowCardinality(String),
    p UInt16,
    user String CODEC(ZSTD(1)),
    time Int64 CODEC(Delta, ZSTD(1)),
    seq UInt64 CODEC(Delta, ZSTD(1)),
    rev UInt64 CODEC(Delta, ZSTD(1)),
    kind UInt8,
    number Float64 CODEC(ZSTD(1)),
    string String CODEC(ZSTD(1)),
    whole Int64 CODEC(ZSTD(1)),
    list Array(String) CODEC(ZSTD(1)),
    INDEX by_rev rev TYPE minmax GRANULARITY 1
"""
_SEEN = """
    account LowCardinality(String),
    p UInt16,
    user String CODEC(ZSTD(1)),
    input LowCardinality(String),
    first Int64 CODEC(ZSTD(1)),
    last Int64 CODEC(ZSTD(1)),
    rev UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_rev rev TYPE minmax GRANULARITY 1
"""
_PROFILES = """
    base LowCardinality(String),
    account LowCardinality(String),
    p UInt16,
    user String CODEC(ZSTD(1)),
    inputs Array(LowCardinality(String)) CODEC(ZSTD(1)),
    firsts Array(Int64) CODEC(ZSTD(1)),
    lasts Array(Int64) CODEC(ZSTD(1)),
    strings Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    numbers Map(LowCardinality(String), Float64) CODEC(ZSTD(1)),
    bools Map(LowCardinality(String), UInt8) CODEC(ZSTD(1)),
    times Map(LowCardinality(String), Int64) CODEC(ZSTD(1)),
    lists Map(LowCardinality(String), Array(String)) CODEC(ZSTD(1)),
    written Map(LowCardinality(String), Int128) CODEC(ZSTD(1)),
""" + ",".join(
    f"""
    hot{slot}_kind UInt8 CODEC(ZSTD(1)),
    hot{slot}_string String CODEC(ZSTD(1)),
    hot{slot}_number Float64 CODEC(ZSTD(1)),
    hot{slot}_whole Int64 CODEC(ZSTD(1)),
    hot{slot}_list Array(String) CODEC(ZSTD(1)),
    hot{slot}_is_written UInt8 CODEC(ZSTD(1)),
    hot{slot}_written Int128 CODEC(ZSTD(1))"""
    for slot in range(HOT_MAX)
)
_BASES = "name String"
_IDS = """
    account LowCardinality(String),
    source UInt64,
    p UInt16,
    user String CODEC(ZSTD(1)),
    owner String CODEC(ZSTD(1)),
    since UInt64 CODEC(ZSTD(1)),
    rev UInt64 CODEC(Delta, ZSTD(1)),
    INDEX by_rev rev TYPE minmax GRANULARITY 1
"""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How tables are made on the servers. By default each server has tables of its own, and the writer fills
    every replica.
    """

    cluster: str = ""
    """A cluster of the servers' own configuration: a statement makes a table on all of its servers."""
    keeper_path: str = ""
    """Path in Keeper under which tables of a shard replicate; the macros `shard` and `replica` of each server
    complete it. Empty for tables that do not replicate by themselves.
    """

    def on_cluster(self) -> str:
        """What follows the name of a database or table."""
        return f" ON CLUSTER {quoted(self.cluster)}" if self.cluster else ""

    def engine(self, table: str) -> str:
        """The engine of a table."""
        if not self.keeper_path:
            return "MergeTree"
        return f"ReplicatedMergeTree({text(f'{self.keeper_path}/{{shard}}/{table}')}, '{{replica}}')"

    def deduplication(self) -> str:
        """The setting of a table by which it knows repeated inserts."""
        kind = "replicated" if self.keeper_path else "non_replicated"
        return f"{kind}_deduplication_window = {DEDUPLICATED_INSERTS}"


class Table(msgspec.Struct, frozen=True):
    """A table as a migration makes it."""

    name: str
    columns: str
    order: str
    partition: str = "tuple()"

    def statement(self, layout: Layout) -> str:
        """The statement that makes it, unless it is there. Inserts are on disk once they are acknowledged."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name}{layout.on_cluster()} ({self.columns})"
            f" ENGINE = {layout.engine(self.name)} PARTITION BY {self.partition} ORDER BY ({self.order})"
            f" SETTINGS {layout.deduplication()}, fsync_after_insert = 1, fsync_part_directory = 1"
        )


MIGRATIONS: tuple[tuple[Table, ...], ...] = (
    (
        Table(EVENTS, _EVENTS, "account, name, p, user, time, seq"),
        Table(FACTS, _FACTS, "account, place, key, p, user, time, seq"),
        Table(SEEN, _SEEN, "account, p, user, input"),
    ),
    (
        Table(PROFILES, _PROFILES, "account, p, user", partition="base"),
        Table(BASES, _BASES, "name", partition="name"),
    ),
    (Table(IDS, _IDS, "account, source, p, user"),),
)
"""What leads from each version of the tables to the next. Only ever added to."""
