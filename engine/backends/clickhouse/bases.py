"""Builds bases: what the rows of `facts` and `seen` come to, one row a user.

A base is built beside the one in use, on every replica, and used once a view names it: the switch is one
step. Rows stay where they are, so a base can be dropped at any time. A statement over a base reads later rows
alone, and the order of the latest write of each fact in the base, as writes come in any order of time.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

from engine.backends.clickhouse.cluster import LOOK_S, Cluster, Replica
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.events import ARRIVAL_ORDER
from engine.backends.clickhouse.query.literals import all_of, text, texts
from engine.backends.clickhouse.tables import BASES, FACTS, HOT_MAX, PROFILES, SEEN, fact_name
from engine.backends.clickhouse.view import Base, View
from engine.errors import StoreUnavailable
from engine.values import Kind

PARTITIONS_AT_ONCE = 64
"""Partitions whose users one insert groups, unless a call says otherwise."""

BUILDS_MAX = 64
"""Replicas that build at once."""

Hot = Mapping[str, Sequence[tuple[str, str]]]
"""By account, place and key of facts to give columns of their own, at most `HOT_MAX`."""

_MAPS = {
    "strings": (Kind.STRING, "string", "Map(LowCardinality(String), String)"),
    "numbers": (Kind.NUMBER, "number", "Map(LowCardinality(String), Float64)"),
    "bools": (Kind.BOOL, "whole", "Map(LowCardinality(String), UInt8)"),
    "times": (Kind.TIME, "whole", "Map(LowCardinality(String), Int64)"),
    "lists": (Kind.LIST, "list", "Map(LowCardinality(String), Array(String))"),
}


def build(
    cluster: Cluster,
    views: Sequence[View],
    hot: Hot | None = None,
    *,
    partitions_at_once: int = PARTITIONS_AT_ONCE,
    may_go_on: Callable[[], None] = lambda: None,
) -> dict[str, Base]:
    """Builds a base of some accounts, and returns it as the view of each account names it. All views are of
    one revision. Rows may come in meanwhile. One insert groups the users of some partitions in memory.
    `may_go_on` is called from time to time and may raise.

    Raises StoreUnavailable when a replica fails or is behind: then there is no base, and another call builds
    one from the beginning.
    """
    name = secrets.token_hex(8)
    inserts = {
        shard: [
            _insert(name, view, _hot(hot or {}, view.account), f"p >= {some.start} AND p < {some.stop}")
            for view in views
            for some in _pieces(shard.partitions, partitions_at_once)
        ]
        for shard in cluster.shards
    }
    pool, ended = ThreadPoolExecutor(BUILDS_MAX, "clickhouse-base"), threading.Event()
    try:
        building = [
            (cluster.watched(replica), replica, pool.submit(_build_on, replica, name, inserts[shard], ended))
            for shard in cluster.shards
            for replica in shard.replicas
        ]
        for quiet, replica, done in building:
            while not done.done():
                wait([done], LOOK_S)
                may_go_on()
                if not done.done() and quiet.is_dead():
                    raise StoreUnavailable(f"the server {replica.server.address.name} is silent")
            done.result()
    finally:
        # Inserts into a silent server are given up. They may still happen, for a base that nobody names.
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)
    return {
        view.account: Base(name=name, revision=view.revision, hot=_hot(hot or {}, view.account))
        for view in views
    }


def drop(cluster: Cluster, keep: Iterable[str]) -> None:
    """Drops all bases but some, by name, those that are not complete among them. A statement over one of them
    may fail or, in the moment in which it is dropped, miss users: drop a base only once the statements over
    it have ended, `STATEMENT_S_MAX` after the switch.
    """
    kept = texts(sorted(keep))
    for replica in cluster.replicas():
        # A base without its name is refused, so names go first.
        for table, column in ((BASES, "name"), (PROFILES, "base")):
            statement = f"SELECT DISTINCT {column} FROM {table} WHERE NOT has({kept}, {column})"
            for (name,) in replica.server.query(statement):
                replica.server.command(f"ALTER TABLE {table} DROP PARTITION {text(name)}")


def _hot(hot: Hot, account: str) -> tuple[tuple[str, str], ...]:
    return tuple(hot.get(account, ()))[:HOT_MAX]


def _build_on(replica: Replica, name: str, inserts: Iterable[str], ended: threading.Event) -> None:
    if replica.is_behind:
        raise StoreUnavailable(f"the server {replica.server.address.name} lacks the latest writes")
    for statement in inserts:
        if ended.is_set():
            raise StoreUnavailable("another server has failed")
        replica.server.command(statement)
    own = f"FROM {PROFILES} WHERE base = {text(name)}"
    ((rows, users),) = replica.server.query(f"SELECT count(), uniqExact(account, user) {own}")
    if rows != users:
        # A client may send a statement again whose answer was lost.
        raise StoreUnavailable(f"the server {replica.server.address.name} made some profiles twice")
    replica.server.command(f"INSERT INTO {BASES} VALUES ({text(name)})")


def _pieces(partitions: range, at_once: int) -> list[range]:
    starts = range(partitions.start, partitions.stop, at_once)
    return [range(start, min(start + at_once, partitions.stop)) for start in starts]


def _insert(name: str, view: View, hot: Sequence[tuple[str, str]], among: str) -> str:
    is_hot = f"has({texts(fact_name(*each) for each in hot)}, name)"
    columns = {
        "base": text(name),
        "account": text(view.account),
        "p": "any(p)",
        "user": "user",
        "inputs": "groupArrayIf(name, is_input)",
        "firsts": "groupArrayIf(first, is_input)",
        "lasts": "groupArrayIf(last, is_input)",
    }
    for column, (kind, value, type_) in _MAPS.items():
        among_maps = f"kind = {int(kind)} AND NOT {is_hot}"
        keys, values = f"groupArrayIf(name, {among_maps})", f"groupArrayIf({value}, {among_maps})"
        columns[column] = f"CAST(({keys}, {values}), '{type_}')"
    others = f"NOT is_input AND NOT {is_hot}"
    writes = f"(groupArrayIf(name, {others}), groupArrayIf(written, {others}))"
    columns["written"] = f"CAST({writes}, 'Map(LowCardinality(String), Int128)')"
    for slot, each in enumerate(hot):
        own = f"NOT is_input AND name = {text(fact_name(*each))}"
        columns |= {f"hot{slot}_{value}": f"anyIf({value}, {own})" for value in (*_VALUES, "written")}
        columns[f"hot{slot}_is_written"] = f"max({own})"
    latest = ", ".join(f"argMax({value}, {ARRIVAL_ORDER}) AS {value}_" for value in _VALUES)
    values = ", ".join(f"{value}_ AS {value}" for value in (*_VALUES, "written"))
    none = (
        "toUInt8(0) AS kind, toFloat64(0) AS number, '' AS string, toInt64(0) AS whole, [] AS list,"
        " toInt128(0) AS written"
    )
    rows = f"SELECT * FROM {FACTS} WHERE {all_of([counted(view, FACTS), among])}"
    facts = (
        f"SELECT p, user, name, {values}, toInt64(0) AS first, toInt64(0) AS last, 0 AS is_input FROM"
        f" (SELECT any(p) AS p, user, concat(place, {text(chr(0))}, key) AS name, {latest},"
        f" max({ARRIVAL_ORDER}) AS written_ FROM ({rows}) GROUP BY user, place, key)"
    )
    rows = f"SELECT * FROM {SEEN} WHERE {all_of([counted(view, SEEN), among])}"
    seen = (
        f"SELECT any(p) AS p, user, input AS name, {none}, min(r.first) AS first, max(r.last) AS last,"
        f" 1 AS is_input FROM ({rows}) AS r GROUP BY user, input"
    )
    return (
        f"INSERT INTO {PROFILES} ({', '.join(columns)})"
        f" SELECT {', '.join(columns.values())} FROM ({facts} UNION ALL {seen}) GROUP BY user"
    )


_VALUES = ("kind", "number", "string", "whole", "list")
