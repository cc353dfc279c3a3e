"""The tables of users' data, and the migrations that make them.

Every row has `p`, the user's partition, by which shards split the users; `seq`, its place in the order of
arrival; and `rev`, the revision that makes it visible. Rows are only ever added: the latest write of a fact
wins when it is read, and rows that do not count any more stay until they are swept.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

EVENTS, FACTS, SEEN = "events", "facts", "seen"

COLUMNS: Mapping[str, tuple[str, ...]] = {
    EVENTS: (
        *("account", "name", "p", "user", "time", "input", "type", "seq", "rev"),
        *("strings", "numbers", "bools", "times", "lists"),
    ),
    FACTS: (
        *("account", "place", "key", "p", "user", "time", "seq", "rev"),
        *("kind", "number", "string", "whole", "list"),
    ),
    SEEN: ("account", "p", "user", "input", "first", "last", "rev"),
}
"""The columns of each table, in the order in which rows are inserted."""

IDENTITY, CONSENT = "#identity", "#consent"
"""Places of facts that belong to no workspace; names of workspaces begin otherwise."""

UNSET = 0
"""The kind of a fact that was unset. The others are those of `engine.values.Kind`."""

DEDUPLICATED_INSERTS = 10_000
"""Latest inserts of a table whose tokens a server remembers: one sent again adds nothing."""


def consent_key(regulation: str, purpose: str) -> str:
    """The key of a consent."""
    return f"{regulation}\0{purpose}"


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


class Table(msgspec.Struct, frozen=True):
    """A table as a migration makes it."""

    name: str
    columns: str
    order: str

    def statement(self) -> str:
        """The statement that makes it, unless it is there. Inserts are on disk once they are acknowledged."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self.name} ({self.columns}) ENGINE = MergeTree"
            f" ORDER BY ({self.order})"
            f" SETTINGS non_replicated_deduplication_window = {DEDUPLICATED_INSERTS},"
            " fsync_after_insert = 1, fsync_part_directory = 1"
        )


MIGRATIONS: tuple[tuple[Table, ...], ...] = (
    (
        Table(EVENTS, _EVENTS, "account, name, p, user, time, seq"),
        Table(FACTS, _FACTS, "account, place, key, p, user, time, seq"),
        Table(SEEN, _SEEN, "account, p, user, input"),
    ),
)
"""What leads from each version of the tables to the next. Only ever added to."""
