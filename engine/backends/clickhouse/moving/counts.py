"""Counts and checksums by account and partition: of a source, and of each server.

A checksum is the sum of a hash of each row, so it depends on no order. A row's hash covers its columns; of an
event each attribute has a hash of its own, with the place of the event in the order of arrival.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

from engine.backends.base.moving import PartitionDifference
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.moving.source import Page, Source
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import COLUMNS, EVENTS, FACTS, IDS, SEEN, VALUE_COLUMNS
from engine.values import PARTITION_COUNT

_MASK = (1 << 64) - 1
_END = "\0"
"""What ends each piece of a hashed text."""
_DOUBLE, _BITS = struct.Struct("<d"), struct.Struct("<Q")

ALL = range(PARTITION_COUNT)

Place = tuple[str, int]
"""Account and partition."""


class Counts(msgspec.Struct, kw_only=True):
    """What a partition of an account has: users, and rows and their checksum by table."""

    users: int = 0
    rows: dict[str, int] = {}
    sums: dict[str, int] = {}

    def add(self, table: str, rows: int, checksum: int) -> None:
        """Rows of a table."""
        self.rows[table] = self.rows.get(table, 0) + rows
        self.sums[table] = (self.sums.get(table, 0) + checksum) & _MASK


def counts_of_source(source: Source, pages: Iterator[Page]) -> dict[Place, Counts]:
    """The counts of a source, from its pages; users are counted apart from these."""
    found: dict[Place, Counts] = {place: Counts(users=users) for place, users in source.users().items()}
    for page in pages:
        for table, by_partition in page().items():
            for p, rows in by_partition.items():
                counts = found.setdefault((rows[0][0], p), Counts())
                counts.add(table, len(rows), sum(map(_HASHES[table], rows)))
    return found


def differences(
    cluster: Cluster, expected: dict[Place, Counts], revision: int
) -> Iterator[PartitionDifference]:
    """The partitions that differ on some server, as of a revision, in order."""
    for shard in cluster.shards:
        wanted = {place: counts for place, counts in expected.items() if place[1] in shard.partitions}
        for replica in shard.replicas:
            yield from differing(replica.server, wanted, counts_of_server(replica.server, revision))


def differing(
    server: Server, wanted: Mapping[Place, Counts], found: Mapping[Place, Counts]
) -> Iterator[PartitionDifference]:
    """Where what a server has is not what it should have."""
    for account, partition in sorted(wanted.keys() | found.keys()):
        place = account, partition
        reasons = tuple(_reasons(wanted.get(place, Counts()), found.get(place, Counts())))
        if reasons:
            yield PartitionDifference(
                account=account, partition=partition, server=server.address.name, reasons=reasons
            )


def counts_of_server(server: Server, revision: int, partitions: range = ALL) -> dict[Place, Counts]:
    """The counts of the rows of some partitions that a server has up to a revision."""
    found: dict[Place, Counts] = {}
    for table in COLUMNS:
        users = "uniqExact(user)" if table == SEEN else "0"
        statement = (
            f"SELECT account, p, count(), {users}, sum({_STATEMENTS[table]}) FROM {table}"
            f" WHERE rev <= {revision} AND p >= {partitions.start} AND p < {partitions.stop}"
            " GROUP BY account, p"
        )
        for account, p, rows, own, checksum in server.query(statement):
            counts = found.setdefault((account, p), Counts())
            counts.users += own
            counts.add(table, rows, checksum)
    return found


def _reasons(expected: Counts, found: Counts) -> Iterator[str]:
    if expected.users != found.users:
        yield f"{found.users} users instead of {expected.users}"
    for table in COLUMNS:
        wanted, rows = expected.rows.get(table, 0), found.rows.get(table, 0)
        if wanted != rows:
            yield f"{rows} rows of {table} instead of {wanted}"
        elif expected.sums.get(table, 0) != found.sums.get(table, 0):
            yield f"other rows of {table}, as many"


# --- hashes -------------------------------------------------------------------------------------------------


def _hash(pieces: Sequence[object]) -> int:
    return xxhash.xxh3_64_intdigest(_END.join(map(str, pieces)).encode())


def _hashed(pieces: Sequence[str]) -> str:
    """The same in SQL."""
    return f"xxh3(concat({', char(0), '.join(f'toString({each})' for each in pieces)}))"


def _bits(number: float) -> int:
    return int(_BITS.unpack(_DOUBLE.pack(number))[0])


def _event(row: Sequence[Any]) -> int:
    account, name, p, user, time, through, type_, seq, _, *maps = row
    total = _hash((account, name, p, user, time, through, type_, seq))
    for column, values in zip(VALUE_COLUMNS.values(), maps, strict=True):
        for key, value in values.items():
            total += _hash((seq, column, key, *_pieces(value)))
    return total


def _pieces(value: Any) -> tuple[object, ...]:
    """What is hashed of a value."""
    if isinstance(value, tuple | list):
        return (len(value), *value)
    if isinstance(value, float):
        return (_bits(value),)
    return (int(value) if isinstance(value, bool) else value,)


_FACT_PIECES = ("account", "place", "key", "p", "user", "time", "seq", "kind", "string", "whole")


def _fact(row: Sequence[Any]) -> int:
    account, place, key, p, user, time, seq, _, kind, number, string, whole, listed = row
    pieces = (account, place, key, p, user, time, seq, kind, string, whole, _bits(number))
    return _hash((*pieces, len(listed), *listed))


def _but_revision(row: Sequence[Any]) -> int:
    return _hash(row[:-1])


_HASHES = {EVENTS: _event, FACTS: _fact, SEEN: _but_revision, IDS: _but_revision}

_LISTED = "arrayStringConcat(arrayPushFront({0}, toString(length({0}))), char(0))"
_IN_SQL = {
    "strings": "v",
    "numbers": "reinterpretAsUInt64(v)",
    "bools": "v",
    "times": "v",
    "lists": _LISTED.format("v"),
}


def _statement_of_events() -> str:
    head = _hashed(("account", "name", "p", "user", "time", "input", "type", "seq"))
    maps = (
        f"arraySum(arrayMap((k, v) -> {_hashed(('seq', repr(column), 'k', value))},"
        f" mapKeys({column}), mapValues({column})))"
        for column, value in _IN_SQL.items()
    )
    return " + ".join(itertools.chain([head], maps))


_STATEMENTS = {
    EVENTS: _statement_of_events(),
    FACTS: _hashed((*_FACT_PIECES, "reinterpretAsUInt64(number)", _LISTED.format("list"))),
    SEEN: _hashed(COLUMNS[SEEN][:-1]),
    IDS: _hashed(COLUMNS[IDS][:-1]),
}
