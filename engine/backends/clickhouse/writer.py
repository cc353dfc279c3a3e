"""Adds rows to a cluster, whose replicas are plain servers that do not know of each other.

The owner keeps a log of entries: batches of rows, and moves of users. It writes an entry there, adds it here,
and then makes its revision visible. An entry that could not be added is added again from the log, before any
other. Each insert has a token that follows from the entry, by which a server knows it: an entry that comes
again, in part or whole, also from a connection that was given up long ago, stores nothing twice. Views do not
count rows of revisions that are not visible yet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias

import msgspec

from engine.backends.clickhouse.cluster import LOOK_S, Cluster, Replica, Shard
from engine.backends.clickhouse.query.compiler import counted, is_cut, is_removed, of_account
from engine.backends.clickhouse.query.literals import TRUE, all_of, one_of, one_of_integers, text
from engine.backends.clickhouse.rows import Batch, Row
from engine.backends.clickhouse.tables import COLUMNS, EVENTS, FACTS, OF_USERS, PROFILES, SEEN
from engine.backends.clickhouse.view import View
from engine.errors import MilepostError, StoreUnavailable
from engine.values import partition_of

MOVED_ROWS_AT_ONCE = 50_000
"""Rows of a user that are moved by one insert. It decides what a token means, so it never changes."""
INSERTS_MAX = 64
"""Inserts that run at once, those that were given up included."""

_MOVED_KEYS: Mapping[str, tuple[str, ...]] = {
    EVENTS: ("name", "time", "seq"),
    FACTS: ("place", "key", "time", "seq"),
    SEEN: ("input",),
}
"""What tells apart the rows of a user, those of `seen` once they are joined."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """All that counts of one user goes to another, at a revision."""

    revision: int
    source: str
    target: str
    view: View
    """What counts before. The view of the revision cuts the source."""
    ids: Batch | None = None
    """Rows of `ids` that go with it."""


Entry: TypeAlias = Batch | Move
Log: TypeAlias = Callable[[int], Iterable[Entry]]
"""The entries after a revision, in order."""


class Writer:
    """Adds rows. One at a time for a cluster, as revisions are added in order.

    `revision` is the last that is visible. `behind` are replicas that lack rows, by the name of their
    address, with the revision up to which they have all. The owner stores `behind` before it makes a revision
    visible, keeps the log from there on, and gives both to the next writer. `keep` is called with each entry
    that some replica lacks, and with `behind`, before another thread can bring that replica up to date.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        revision: int = 0,
        behind: Mapping[str, int] | None = None,
        keep: Callable[[Entry, Mapping[str, int]], None] = lambda entry, behind: None,
    ) -> None:
        self._cluster = cluster
        self._added = revision
        self._keep = keep
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(INSERTS_MAX, "clickhouse-writer")
        self._behind: dict[str, int] = dict(behind or {})
        for replica in cluster.replicas():
            replica.is_behind = replica.server.address.name in self._behind

    def close(self) -> None:
        """Inserts that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def behind(self) -> Mapping[str, int]:
        """The replicas that lack rows, and the revision up to which each has all."""
        return dict(self._behind)

    def add(self, entry: Entry) -> None:
        """Stores the rows of an entry on every replica that is not behind. One that fails while another of
        its shard does not is behind from then on.

        Raises StoreUnavailable when all replicas of a shard fail. Then the entry must be added again before
        any other, and its revision must not become visible before that.
        """
        with self._lock:
            for part, batch in [("", entry)] if isinstance(entry, Batch) else self._moved(entry):
                self._add(batch, part)
            if self._behind:
                self._keep(entry, self.behind)
            self._added = entry.revision

    def fill(self, batch: Batch, part: str) -> None:
        """Stores rows on every replica, unless rows under the same revision and part are there.

        Raises StoreUnavailable when a replica fails. Then fill in the same rows again.
        """
        with self._lock:
            inserting = [
                (replica, self._inserting(replica, tables))
                for shard in self._cluster.shards
                if (tables := _tables_of(batch, shard, part))
                for replica in shard.replicas
            ]
            outcomes = [self._outcome(replica, future) for replica, future in inserting]
        if failures := [str(error) for error in outcomes if error is not None]:
            raise StoreUnavailable("; ".join(failures))

    def catch_up(self, log: Log, *, unless_readable: bool = False) -> Mapping[str, int]:
        """Adds what replicas lack from the log, and returns those that still lack something. Others are added
        to meanwhile, except while the last entries of the log are added. `unless_readable`: only to shards
        all of whose replicas lack something.
        """
        for shard in self._cluster.shards:
            if unless_readable and not all(replica.is_behind for replica in shard.replicas):
                continue
            for replica in shard.replicas:
                if replica.is_behind and replica.server.is_alive():
                    self._catch_up(shard, replica, log)
        return self.behind

    def sweep(self, view: View) -> bool:
        """Removes the rows that a view's cuts and removals exclude, so that its owner can forget these.
        False, with nothing removed, while a replica is behind: it would bring rows back.
        """
        with self._lock:
            if self._behind:
                return False
            for shard in self._cluster.shards:
                for table, condition in _dead(view, shard.partitions):
                    for replica in shard.replicas:
                        _delete(replica, table, condition)
            return True

    # --- adding ---------------------------------------------------------------------------------------------

    def _add(self, batch: Batch, part: str) -> None:
        inserts = []
        for shard in self._cluster.shards:
            tables = _tables_of(batch, shard, part)
            if tables:
                replicas = [replica for replica in shard.replicas if not replica.is_behind]
                inserts.append((shard, [(each, self._inserting(each, tables)) for each in replicas]))
        failures = []
        for shard, inserting in inserts:
            outcomes = [(replica, self._outcome(replica, future)) for replica, future in inserting]
            failed = [(replica, error) for replica, error in outcomes if error is not None]
            if len(failed) == len(outcomes):
                reasons = "; ".join(str(error) for _, error in failed) or "all replicas lack earlier writes"
                failures.append(f"{shard.name} cannot be written: {reasons}")
                continue
            for replica, _ in failed:
                replica.is_behind = True
                self._behind[replica.server.address.name] = batch.revision - 1
        if failures:
            raise StoreUnavailable("; ".join(failures))

    def _inserting(self, replica: Replica, tables: Sequence[_Insert]) -> Future[None]:
        return self._pool.submit(_insert, replica, tables)

    def _outcome(self, replica: Replica, future: Future[None]) -> MilepostError | None:
        """The error of an insert. One into a server that is silent is given up; it may still happen."""
        quiet = self._cluster.watched(replica)
        while not future.done():
            wait([future], LOOK_S)
            if not future.done() and quiet.is_dead():
                return StoreUnavailable(f"the server {replica.server.address.name} is silent")
        error = future.exception()
        if error is not None and not isinstance(error, MilepostError):
            raise error
        return error

    # --- moving ---------------------------------------------------------------------------------------------

    def _moved(self, move: Move) -> Iterator[tuple[str, Batch]]:
        """The rows of a move, read from its source."""
        if move.ids is not None:
            yield "", move.ids
        p = partition_of(move.target)
        replaced = {"p": str(p), "user": text(move.target), "rev": str(move.revision)}
        own = f"p = {partition_of(move.source)} AND user = {text(move.source)}"
        for table in _MOVED_KEYS:
            where = all_of([counted(move.view, table), own])
            columns = {column: replaced.get(column, column) for column in COLUMNS[table]}
            rows = f"SELECT {', '.join(COLUMNS[table])} FROM {table} WHERE {where}"
            if table == SEEN:
                columns |= {"first": "min(first)", "last": "max(last)"}
            yield from self._pages(move, table, columns, rows, move.source)

    def _copied(self, move: Move) -> Iterator[tuple[str, Batch]]:
        """The same rows, read from another replica of the target's shard."""
        if move.ids is not None:
            yield "", move.ids
        own = f"p = {partition_of(move.target)} AND user = {text(move.target)} AND rev = {move.revision}"
        for table in _MOVED_KEYS:
            where = all_of([of_account(move.view), own])
            columns = {column: column for column in COLUMNS[table]}
            rows = f"SELECT {', '.join(COLUMNS[table])} FROM {table} WHERE {where}"
            yield from self._pages(move, table, columns, rows, move.target)

    def _pages(
        self, move: Move, table: str, columns: Mapping[str, str], rows: str, user: str
    ) -> Iterator[tuple[str, Batch]]:
        """Pages of rows in the order of their key, each a part of the move."""
        key = _MOVED_KEYS[table]
        grouped = " GROUP BY account, input" if columns.get("first") == "min(first)" else ""
        later = TRUE
        for number in range(_NEVER):
            statement = (
                f"SELECT {', '.join(columns.values())} FROM ({rows}) WHERE {later}{grouped}"
                f" ORDER BY {', '.join(key)} LIMIT {MOVED_ROWS_AT_ONCE}"
            )
            (found,) = self._cluster.read(statement, [partition_of(user)])
            page = [tuple(row) for row in found]
            if page:
                batch = Batch(revision=move.revision, rows={table: {partition_of(move.target): page}})
                yield f"-{number}", batch
            if len(page) < MOVED_ROWS_AT_ONCE:
                return
            last = (page[-1][COLUMNS[table].index(column)] for column in key)
            later = f"({', '.join(key)}) > ({', '.join(map(_literal, last))})"

    # --- catching up ----------------------------------------------------------------------------------------

    def _catch_up(self, shard: Shard, replica: Replica, log: Log) -> None:
        try:
            self._replay(shard, replica, log)
            with self._lock:
                self._replay(shard, replica, log)
                replica.is_behind = False
                del self._behind[replica.server.address.name]
        except MilepostError:
            # It stays behind, and the next round goes on where this one ended.
            replica.rest()

    def _replay(self, shard: Shard, replica: Replica, log: Log) -> None:
        name = replica.server.address.name
        for entry in log(self._behind[name]):
            if entry.revision > self._added:
                # It is being added. What is there of it is not all of it.
                return
            for part, batch in [("", entry)] if isinstance(entry, Batch) else self._copied(entry):
                tables = _tables_of(batch, shard, part)
                if tables:
                    _insert(replica, tables)
            self._behind[name] = entry.revision


_NEVER = 1 << 62

_Insert: TypeAlias = tuple[str, list[Row], str]
"""A table, rows and a token."""


def _tables_of(batch: Batch, shard: Shard, part: str) -> list[_Insert]:
    return [
        (table, rows, f"{batch.revision}-{table}{part}")
        for table in COLUMNS
        if (rows := batch.of_table(table, shard.partitions))
    ]


def _insert(replica: Replica, tables: Iterable[_Insert]) -> None:
    for table, rows, token in tables:
        replica.server.insert(table, _by_column(rows), token)


def _by_column(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _literal(value: object) -> str:
    return text(value) if isinstance(value, str) else str(value)


def _dead(view: View, partitions: range) -> Iterator[tuple[str, str]]:
    """Conditions on the rows of some partitions that a view excludes for good, by table."""
    cuts = {user: cut for user, cut in view.cuts.items() if partition_of(user) in partitions}
    for table in OF_USERS if cuts else ():
        own = sorted({partition_of(user) for user in cuts})
        among = [one_of_integers("p", own), one_of("user", cuts)]
        yield table, all_of([of_account(view), *among, is_cut(cuts)])
    base = view.base
    in_base = [user for user, cut in cuts.items() if base is not None and cut >= base.revision]
    if base is not None and in_base:
        yield PROFILES, all_of([f"base = {text(base.name)}", of_account(view), one_of("user", in_base)])
    for before, revision in view.removals:
        yield EVENTS, all_of([of_account(view), is_removed(before, revision)])


def _delete(replica: Replica, table: str, condition: str) -> None:
    replica.server.command(f"DELETE FROM {table} WHERE {condition} SETTINGS lightweight_deletes_sync = 2")
