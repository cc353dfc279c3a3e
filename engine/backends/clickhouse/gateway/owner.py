"""Makes sure that a server has the rows of this store and of its shard, before it is read or written.

A table of each server's database names the store that it belongs to. So a server that was replaced by an
empty one, that changed places with another, or that another store uses is not taken for one with rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.backends.clickhouse.gateway.keys import OWNER
from engine.backends.clickhouse.migrations import migrate
from engine.backends.clickhouse.query.literals import one_of_integers
from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import COLUMNS, PROFILES
from engine.backends.local.storage.environment import Environment
from engine.errors import FailedPrecondition

TABLE = "owner"


class Owner(msgspec.Struct, frozen=True):
    """The store, and its shards."""

    store_id: str
    shards: int
    starts: tuple[int, ...] = ()
    """The first partition of each shard (`cluster.ranges_of`); empty for equal shares."""
    leftovers: dict[str, tuple[int, int]] = {}
    """By server, the first partition and the one after the last whose rows are another shard's now. They are
    deleted before the server is read.
    """


def read_owner(index: Environment) -> Owner | None:
    """What is recorded; None in a new directory, and in that of an embedded store."""
    with index.reading() as txn:
        stored = txn.get(OWNER)
        return None if stored is None else msgspec.msgpack.decode(stored, type=Owner)


def write_owner(index: Environment, owner: Owner) -> None:
    """Replaces what is recorded."""
    with index.writing() as txn:
        txn.put(OWNER, msgspec.msgpack.encode(owner))


def delete_leftovers(index: Environment, server: Server) -> None:
    """Deletes the rows of a server that moved to another shard, if there are any left."""
    owner, name = read_owner(index), server.address.name
    if owner is None or name not in owner.leftovers:
        return
    delete_partitions(server, range(*owner.leftovers[name]))
    others = {each: found for each, found in owner.leftovers.items() if each != name}
    write_owner(index, msgspec.structs.replace(owner, leftovers=others))


def delete_partitions(server: Server, partitions: Sequence[int]) -> None:
    """Deletes all rows of some partitions from a server."""
    own = one_of_integers("p", partitions)
    for table in (*COLUMNS, PROFILES):
        server.command(f"DELETE FROM {table} WHERE {own} SETTINGS lightweight_deletes_sync = 2")


def own(index: Environment, owner: Owner, *, is_new: bool) -> None:
    """Records that the files of a store are those of a gateway. Raises FailedPrecondition when they are of an
    embedded store, or of a cluster with another number of shards.
    """
    known = read_owner(index)
    if known is None:
        if not is_new:
            raise FailedPrecondition(
                "the directory has an embedded store: a gateway begins with an empty directory"
            )
        write_owner(index, owner)
    elif known.shards != owner.shards:
        raise FailedPrecondition(
            f"the store has {known.shards} shards, and the URL names {owner.shards}: the partitions of"
            " existing rows would be looked for in other shards; `milepost store add-shard` adds one"
        )


def claim(server: Server, owner: Owner, shard: int, *, is_new: bool) -> None:
    """Makes the tables of a server, and checks whose rows it has. `is_new`: the store has no rows, so the
    server need not have been of it before.

    Raises FailedPrecondition when it has not the rows of this shard; StoreUnavailable when it does not
    answer.
    """
    migrate(server)
    server.command(
        f"CREATE TABLE IF NOT EXISTS {TABLE} (store_id String, shard UInt16, shards UInt16)"
        " ENGINE = MergeTree ORDER BY store_id"
    )
    mine = (owner.store_id, shard)
    found = {tuple(row) for row in server.query(f"SELECT DISTINCT store_id, shard FROM {TABLE}")}
    if found == {mine}:
        return
    if found:
        raise FailedPrecondition(
            f"the database {server.database!r} of {server.address.name} belongs to another store or shard"
        )
    if not is_new:
        raise FailedPrecondition(
            f"the database {server.database!r} of {server.address.name} has no rows of this store: a server"
            " that was replaced has to be restored from another replica of its shard first"
        )
    server.command(f"INSERT INTO {TABLE} VALUES ('{owner.store_id}', {shard}, {owner.shards})")


def check_rows(server: Server, newest: int) -> None:
    """Raises FailedPrecondition when a server has rows of revisions that the log has not given yet: then the
    directory of the gateway is older than the cluster, and new rows would mix with these.
    """
    for table in COLUMNS:
        if server.query(f"SELECT 1 FROM {table} WHERE rev > {newest} LIMIT 1"):
            raise FailedPrecondition(
                f"{server.address.name} has rows that the gateway's log does not know: its directory was"
                " restored from an older copy; restore the cluster from the same time"
            )
