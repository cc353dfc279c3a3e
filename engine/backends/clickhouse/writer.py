"""Adds rows to a cluster, whose replicas are plain servers that do not know of each other.

The owner keeps a log. It writes a batch there, adds it here, and then makes its revision visible. A batch
that could not be added is added again from the log, with the same tokens: what had been stored of it is not
stored twice. Views do not count rows of revisions that are not visible yet.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.backends.clickhouse.cluster import Cluster, Replica, Rows, Shard
from engine.backends.clickhouse.query.compiler import counted, is_cut, is_removed, of_account
from engine.backends.clickhouse.query.literals import all_of, text
from engine.backends.clickhouse.rows import Batch, Row
from engine.backends.clickhouse.tables import COLUMNS, EVENTS, FACTS, SEEN
from engine.backends.clickhouse.view import View
from engine.errors import MilepostError, StoreUnavailable
from engine.values import partition_of

ROWS_AT_ONCE = 50_000
"""Rows that are read to be copied, of one statement."""
INSERTS_MAX = 16
"""Inserts that run at once."""

_MOVED_KEYS: Mapping[str, tuple[str, ...]] = {
    EVENTS: ("name", "time", "seq"),
    FACTS: ("place", "key", "time", "seq"),
}
"""What tells apart the rows of one user."""


class Writer:
    """Adds rows. One at a time for a cluster, as revisions are added in order.

    `revision` is the last one that was added, by an earlier writer.
    `behind` are replicas that lack rows, by the name of their address, with the revision up to which they
    have all; the owner keeps it over restarts.
    """

    def __init__(
        self, cluster: Cluster, *, revision: int = 0, behind: Mapping[str, int] | None = None
    ) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(INSERTS_MAX, "clickhouse-writer")
        self._behind: dict[str, int] = dict(behind or {})
        self._revision = revision
        for replica in cluster.replicas():
            replica.is_behind = replica.server.address.name in self._behind

    def close(self) -> None:
        """Waits for the inserts that run."""
        self._pool.shutdown()

    @property
    def behind(self) -> Mapping[str, int]:
        """The replicas that lack rows, and the revision up to which each has all."""
        return dict(self._behind)

    def add(self, batch: Batch) -> None:
        """Stores the rows of a batch on every replica that is not behind. One that fails while another of its
        shard does not is behind from then on.

        Raises StoreUnavailable when all replicas of a shard fail. Then the batch must be added again before
        any other, and its revision must not become visible before that.
        """
        with self._lock:
            self._add(batch, "")
            self._revision = batch.revision

    def move(self, view: View, source: str, target: str, revision: int) -> None:
        """Copies all that counts of one user to another, as rows of a revision. The copies do not count
        before the revision is visible; the owner cuts the source in the same instant.

        Errors as `add`: then the same move must be made again.
        """
        with self._lock:
            for number, batch in enumerate(self._moved(view, source, target, revision)):
                self._add(batch, f"-{number}")
            self._revision = revision

    def catch_up(self) -> Mapping[str, int]:
        """Copies what replicas lack from others of their shard, and returns those that still lack something.
        Most is copied while batches are added.
        """
        for shard in self._cluster.shards:
            for replica in shard.replicas:
                if replica.is_behind:
                    self._catch_up(shard, replica)
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
            tables = [
                (table, rows, f"{batch.revision}-{table}{part}")
                for table in COLUMNS
                if (rows := batch.of_table(table, shard.partitions))
            ]
            if tables:
                replicas = [replica for replica in shard.replicas if not replica.is_behind]
                started = [self._pool.submit(_insert, replica, tables) for replica in replicas]
                inserts.append((shard, list(zip(replicas, started, strict=True))))
        failures = []
        for shard, started_on in inserts:
            outcomes = [(replica, future.result()) for replica, future in started_on]
            failed = [(replica, error) for replica, error in outcomes if error is not None]
            if len(failed) == len(outcomes):
                reasons = "; ".join(str(error) for _, error in failed) or "all replicas lack earlier writes"
                span = f"{shard.partitions.start} to {shard.partitions.stop - 1}"
                failures.append(f"partitions {span} cannot be written: {reasons}")
                continue
            for replica, _ in failed:
                self._behind[replica.server.address.name] = batch.revision - 1
                replica.is_behind = True
        if failures:
            raise StoreUnavailable("; ".join(failures))

    def _moved(self, view: View, source: str, target: str, revision: int) -> Iterator[Batch]:
        """The rows that count of a user, as rows of another."""
        p = partition_of(target)
        replaced = {"p": str(p), "user": text(target), "rev": str(revision)}
        own = f"p = {partition_of(source)} AND user = {text(source)}"
        for table, key in _MOVED_KEYS.items():
            columns = ", ".join(COLUMNS[table])
            moved = ", ".join(f"{replaced.get(column, column)}" for column in COLUMNS[table])
            after: tuple[Any, ...] | None = None
            while after is None or len(after):
                later = "1" if after is None else f"({', '.join(key)}) > ({', '.join(map(_literal, after))})"
                statement = (
                    f"SELECT {moved} FROM (SELECT {columns} FROM {table}"
                    f" WHERE {all_of([counted(view, table), own, later])}"
                    f" ORDER BY {', '.join(key)} LIMIT {ROWS_AT_ONCE})"
                )
                rows = self._rows_of(source, statement)
                if rows:
                    yield Batch(revision=revision, rows={table: {p: rows}})
                positions = [COLUMNS[table].index(column) for column in key]
                after = tuple(rows[-1][at] for at in positions) if len(rows) == ROWS_AT_ONCE else ()
        through = (
            f"SELECT account, {p}, {text(target)}, input, min(first), max(last), {revision} FROM {SEEN}"
            f" WHERE {all_of([counted(view, SEEN), own])} GROUP BY account, input ORDER BY input"
        )
        yield Batch(revision=revision, rows={SEEN: {p: self._rows_of(source, through)}})

    def _rows_of(self, user: str, statement: str) -> list[Row]:
        (rows,) = self._cluster.read(statement, [partition_of(user)])
        return [tuple(row) for row in rows]

    # --- catching up ----------------------------------------------------------------------------------------

    def _catch_up(self, shard: Shard, replica: Replica) -> None:
        name = replica.server.address.name
        since = self._behind[name]
        try:
            for table in COLUMNS:
                _delete(replica, table, f"rev > {since}")
            reached = self._revision
            self._copy(shard, replica, since, reached)
            with self._lock:
                self._copy(shard, replica, reached, self._revision)
                replica.is_behind = False
                del self._behind[name]
        except MilepostError:
            # It stays behind, and the next round begins where this one did.
            return

    def _copy(self, shard: Shard, replica: Replica, since: int, until: int) -> None:
        """Copies the rows of (since, until] from another replica."""
        for table, columns in COLUMNS.items():
            span = f"rev > {since} AND rev <= {until}"
            sizes = _read(shard, f"SELECT rev, count() FROM {table} WHERE {span} GROUP BY rev ORDER BY rev")
            for first, last in _runs(sizes):
                run = f"rev >= {first} AND rev <= {last}"
                rows = _read(shard, f"SELECT {', '.join(columns)} FROM {table} WHERE {run}")
                # A token of its own: those of the rows that were deleted are remembered.
                replica.server.insert(table, _by_column(rows), secrets.token_hex(16))


def _read(shard: Shard, statement: str) -> Rows:
    return shard.read(lambda server: server.query(statement))


def _insert(replica: Replica, tables: Iterable[tuple[str, list[Row], str]]) -> MilepostError | None:
    """Inserts into the tables of a replica; returns the error."""
    try:
        for table, rows, token in tables:
            replica.server.insert(table, _by_column(rows), token)
    except MilepostError as error:
        return error
    return None


def _by_column(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _literal(value: object) -> str:
    return text(value) if isinstance(value, str) else str(value)


def _runs(sizes: Iterable[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Runs of revisions with at most `ROWS_AT_ONCE` rows, or of one revision. From (revision, rows)."""
    first = last = rows = 0
    for revision, more in sizes:
        if rows and rows + more > ROWS_AT_ONCE:
            yield first, last
            rows = 0
        first, last, rows = (first if rows else revision), revision, rows + more
    if rows:
        yield first, last


def _dead(view: View, partitions: range) -> Iterator[tuple[str, str]]:
    """Conditions on the rows of some partitions that a view excludes for good, by table."""
    cuts = {user: cut for user, cut in view.cuts.items() if partition_of(user) in partitions}
    for table in COLUMNS if cuts else ():
        own = sorted({partition_of(user) for user in cuts})
        among = f"p IN ({','.join(map(str, own))}) AND user IN ({','.join(map(text, cuts))})"
        yield table, all_of([of_account(view), among, is_cut(cuts)])
    for before, revision in view.removals:
        yield EVENTS, all_of([of_account(view), is_removed(before, revision)])


def _delete(replica: Replica, table: str, condition: str) -> None:
    replica.server.command(f"DELETE FROM {table} WHERE {condition} SETTINGS lightweight_deletes_sync = 2")
