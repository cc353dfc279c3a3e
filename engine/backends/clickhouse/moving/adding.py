"""Adds a shard to a store in a cluster: half of the partitions of the largest shard move to new servers.

The service is stopped. Rows are copied and compared first, partition by partition, which changes nothing in
the store; then the gateway records in one step whose partitions they are, and last the copies that were
left are deleted. Until that step the store can be served as it was; from it on, with the new shard.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from engine.backends.base.moving import Moved, MoveProgress, Told
from engine.backends.clickhouse.backend import ClickHouseBackend
from engine.backends.clickhouse.cluster import Cluster, Shard, ranges_of
from engine.backends.clickhouse.gateway.location import Location, location_of
from engine.backends.clickhouse.gateway.open_cluster import cluster_at
from engine.backends.clickhouse.gateway.owner import (
    Owner,
    claim,
    delete_partitions,
    read_owner,
    write_owner,
)
from engine.backends.clickhouse.moving.counts import Counts, Place, counts_of_server, differing
from engine.backends.clickhouse.query.literals import one_of_integers
from engine.backends.clickhouse.rows import Row
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.settings import ClickHouseSettings
from engine.backends.clickhouse.tables import COLUMNS
from engine.backends.local.storage.store import Store
from engine.errors import FailedPrecondition, StoreUnavailable

ROWS_AT_ONCE = 50_000
"""Rows that are copied at once, about: those of a user are copied together."""
NEVER = 1 << 62


def add_shard(location: str, told: Told) -> Moved:
    """Adds the last shard that a location names. Run it again when it was interrupted.

    Raises FailedPrecondition when the store has another number of shards, or a new server has other rows;
    StoreUnavailable when a server does not answer, or a service has the store open.
    """
    place = location_of(location)
    if _shards_of(place) == len(place.shards):
        # The step is done: opening the store deletes what was left.
        return _finished(place)
    before = msgspec.structs.replace(place, shards=place.shards[:-1])
    _settle(before)
    store = Store.open(place.gateway)
    try:
        owner = read_owner(store.index)
        assert owner is not None, "it was opened"
        cluster, target = cluster_at(before, owner), _new_shard(place, owner)
        try:
            source = max(cluster.shards, key=lambda shard: len(shard.partitions))
            middle = (source.partitions.start + source.partitions.stop) // 2
            moving = range(middle, source.partitions.stop)
            _copy(source, target, moving, told)
            starts = owner.starts or tuple(each.start for each in ranges_of(owner.shards))
            names = [replica.server.address.name for replica in source.replicas]
            write_owner(
                store.index,
                Owner(
                    owner.store_id,
                    owner.shards + 1,
                    (*starts, middle),
                    owner.leftovers | dict.fromkeys(names, (moving.start, moving.stop)),
                ),
            )
        finally:
            for each in (cluster, target):
                each.close()
    finally:
        store.close()
    return _finished(place)


def _shards_of(place: Location) -> int:
    store = Store.open(place.gateway)
    try:
        owner = read_owner(store.index)
    finally:
        store.close()
    if owner is None or owner.shards not in (len(place.shards), len(place.shards) - 1):
        has = "no rows in a cluster" if owner is None else f"{owner.shards} shards"
        raise FailedPrecondition(
            f"the store has {has}, and the URL names {len(place.shards)}: name those that it has, and then"
            " the one to add"
        )
    return owner.shards


def _settle(place: Location) -> None:
    """Adds what waits in the log, and goes on without bases: they are built again."""
    backend = _opened(place)
    try:
        backend.go_on_without_bases()
        backend.checkpoint()
        if backend.has_servers_behind:
            raise StoreUnavailable("a server lacks the latest writes: start the service until it has them")
    finally:
        backend.close()


def _finished(place: Location) -> Moved:
    """Opens the store with its new shard, which deletes what moved from where it was."""
    backend = _opened(place)
    try:
        stats = backend.stats()
        return Moved(revision=stats.revision, users=stats.users, rows={}, differences=())
    finally:
        backend.close()


def _opened(place: Location) -> ClickHouseBackend:
    # A base that is built meanwhile would lack the new shard.
    return ClickHouseBackend.open(place, settings=ClickHouseSettings(base_writes_min=NEVER))


def _new_shard(place: Location, owner: Owner) -> Cluster:
    """The servers to add, whose tables are made."""
    target = cluster_at(msgspec.structs.replace(place, shards=place.shards[-1:]))
    try:
        for replica in target.replicas():
            claim(replica.server, owner, owner.shards, is_new=True)
    except BaseException:
        target.close()
        raise
    return target


# --- copying ------------------------------------------------------------------------------------------------


def _copy(source: Shard, target: Cluster, moving: range, told: Told) -> None:
    """Copies rows until every new server has what every replica of the source has."""
    first, *others = (replica.server for replica in source.replicas)
    wanted = counts_of_server(first, NEVER, moving)
    for server in others:
        _refuse(server, wanted, moving)
    for replica in target.replicas():
        server = replica.server
        found = differing(server, wanted, counts_of_server(server, NEVER, moving))
        groups = list(_groups(sorted({each.partition for each in found}), wanted))
        for done, partitions in enumerate(groups, 1):
            delete_partitions(server, partitions)
            for table in COLUMNS:
                for rows in _rows(first, table, partitions):
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    # Rows that were deleted may have come with a token that follows from them.
                    server.insert(table, columns, secrets.token_hex(16))
            told(MoveProgress(f"copying to {server.address.name}", done, len(groups)))
        _refuse(server, wanted, moving)


def _groups(partitions: Sequence[int], counts: Mapping[Place, Counts]) -> Iterator[list[int]]:
    """Partitions to copy together: with some ten thousand rows, or one."""
    rows = Counter[int]()
    for (_, p), each in counts.items():
        rows[p] += sum(each.rows.values())
    group: list[int] = []
    for p in partitions:
        if group and sum(rows[each] for each in (*group, p)) > ROWS_AT_ONCE:
            yield group
            group = []
        group.append(p)
    if group:
        yield group


def _refuse(server: Server, wanted: Mapping[Place, Counts], moving: range) -> None:
    difference = next(differing(server, wanted, counts_of_server(server, NEVER, moving)), None)
    if difference is not None:
        raise FailedPrecondition(f"{difference}: nothing was moved")


def _rows(server: Server, table: str, partitions: Sequence[int]) -> Iterator[list[Row]]:
    """The rows of some partitions, those of a user together."""
    own = one_of_integers("p", partitions)
    ((count,),) = server.query(f"SELECT count() FROM {table} WHERE {own}")
    pieces = count // ROWS_AT_ONCE + 1
    for piece in range(pieces):
        rows = server.query(
            f"SELECT {', '.join(COLUMNS[table])} FROM {table}"
            f" WHERE {own} AND cityHash64(user) % {pieces} = {piece}"
        )
        if rows:
            yield [tuple(row) for row in rows]
