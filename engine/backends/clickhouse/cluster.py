"""A cluster: shards that split the users by partition, each with replicas that hold the same rows.

A statement runs on one replica of each shard that it concerns, and the rows are put together here. A user is
in one shard whole, so sizes add up and members of different shards differ. A replica that is gone or silent
is given up, and another one is asked. A shard of which no replica answers is an error, never a smaller
answer.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from engine.backends.clickhouse.mapped import MappedTable, Reach
from engine.backends.clickhouse.query.folding import FOLDED_CHARACTERS, Folding
from engine.backends.clickhouse.query.mapped import of_shard, within
from engine.backends.clickhouse.server import Server
from engine.deadline import check_deadline
from engine.errors import MilepostError, StoreUnavailable
from engine.values import PARTITION_COUNT

LOOK_S = 0.02
"""Interval between looks at whether the caller has given up."""
QUIET_S = 1.0
"""Time after which a server that works on a statement is asked whether it is alive, again and again."""
REST_S = 5.0
"""Time for which a replica that did not answer is asked after the others, and only once it is alive."""
STATEMENTS_MAX = 64
"""Statements that run at once, on all servers together. More wait."""

Rows = Sequence[Sequence[Any]]


class Replica:
    """A server of a shard, and whether it can be read."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_behind = False
        """True while it lacks rows that the others have: it must not be read."""
        self._failed_at = float("-inf")
        self._complete: dict[int, tuple[Reach, int]] = {}
        """By table of others, up to where it had all rows, and how many."""

    def check_rows(self, mapped: MappedTable, deadline: float | None = None, *, again: bool = False) -> None:
        """Makes sure, once for each reach or again, that it has the rows of a table of others, before a
        statement reads them: a statement looks at its rows before it looks how many there are, and more may
        come in between. Raises StoreUnavailable when it has not.
        """
        reached = mapped.reach, mapped.rows
        if self._complete.get(mapped.source) == reached and not again:
            return
        statement = f"SELECT count() FROM {mapped.table} WHERE {within(mapped, mapped.reach)}"
        ((count,),) = self.server.query(statement, deadline=deadline, reads_others=True)
        if count != mapped.rows:
            raise StoreUnavailable(
                f"the server {self.server.address.name} has {count} rows of {mapped.table} where"
                f" {mapped.rows} were followed"
            )
        self._complete[mapped.source] = reached

    @property
    def is_resting(self) -> bool:
        """Whether it failed to answer a moment ago."""
        return time.monotonic() - self._failed_at < REST_S

    def rest(self) -> None:
        """It has failed to answer."""
        self._failed_at = time.monotonic()


class Shard:
    """Replicas that hold the users of some partitions. `number` is its place among those of the store."""

    def __init__(self, number: int, partitions: range, replicas: Sequence[Replica]) -> None:
        self.number = number
        self.partitions = partitions
        self.replicas = tuple(replicas)

    @property
    def condition(self) -> str:
        """That p is one of its partitions."""
        return f"(p >= {self.partitions.start} AND p < {self.partitions.stop})"

    @property
    def name(self) -> str:
        """Its partitions, in words."""
        return f"partitions {self.partitions.start} to {self.partitions.stop - 1}"


class Quiet:
    """Watches a server that works, from one thread: `is_dead` once it does not even say that it is alive."""

    def __init__(self, server: Server, pool: ThreadPoolExecutor) -> None:
        self._server, self._pool = server, pool
        self._since = time.monotonic()
        self._asked: Future[bool] | None = None

    def is_dead(self) -> bool:
        """Never waits."""
        if self._asked is None:
            if time.monotonic() - self._since >= QUIET_S:
                self._asked = self._pool.submit(self._server.is_alive)
            return False
        if not self._asked.done():
            return False
        is_alive = self._asked.result()
        self._asked, self._since = None, time.monotonic()
        return not is_alive


def ranges_of(shards: int, starts: Sequence[int] = ()) -> list[range]:
    """The partitions of each shard: from its start to the next greater one. Without starts, equal shares."""
    starts = starts or [PARTITION_COUNT * number // shards for number in range(shards)]
    bounds = [*sorted(starts), PARTITION_COUNT]
    return [range(start, bounds[bounds.index(start) + 1]) for start in starts]


class Cluster:
    """Shards with some of the partitions each, in the order of partitions."""

    def __init__(self, shards: Sequence[Sequence[Server]], starts: Sequence[int] = ()) -> None:
        """`starts` are those of `ranges_of`."""
        made = (
            Shard(number, partitions, [Replica(server) for server in servers])
            for number, (partitions, servers) in enumerate(
                zip(ranges_of(len(shards), starts), shards, strict=True)
            )
        )
        self.shards = tuple(sorted(made, key=lambda shard: shard.partitions.start))
        self._pool = ThreadPoolExecutor(STATEMENTS_MAX, "clickhouse")
        self._calls = ThreadPoolExecutor(STATEMENTS_MAX, "clickhouse-alive")
        self._lock = threading.Lock()
        self._folding: Folding | None = None

    def close(self) -> None:
        """Closes all connections. Statements that run are not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._calls.shutdown(wait=False, cancel_futures=True)
        for replica in self.replicas():
            replica.server.close()

    def replicas(self) -> Iterator[Replica]:
        """All replicas of all shards."""
        return (replica for shard in self.shards for replica in shard.replicas)

    def watched(self, replica: Replica) -> Quiet:
        """Begins to watch a replica that works."""
        return Quiet(replica.server, self._calls)

    def folding(self) -> Folding:
        """How the servers fold case: a statement with it means the same on each. Asked once of one server of
        each shard, as servers of a shard may be away.
        """
        with self._lock:
            if self._folding is None:
                found = Folding()
                for rows in self.read(FOLDED_CHARACTERS):
                    found = found.joined(Folding.of((number, folded) for number, folded in rows))
                self._folding = found
            return self._folding

    def read(
        self,
        statement: str,
        partitions: Iterable[int] | None = None,
        *,
        deadline: float | None = None,
        mapped: Sequence[MappedTable] = (),
    ) -> list[Rows]:
        """The rows of a statement from each shard with some of the partitions (None = from all shards), in
        the order of shards. `mapped` are the tables of others that it reads.

        Raises StoreUnavailable when a shard cannot be read, DeadlineExceeded when the deadline passes or the
        caller gives up, LimitExceeded when it takes more than a server allows. Then the statement ends on all
        servers.
        """
        wanted = None if partitions is None else set(partitions)
        running = [
            _Running(shard, of_shard(statement, shard.condition), mapped, deadline, self._pool, self._calls)
            for shard in self.shards
            if wanted is None or not wanted.isdisjoint(shard.partitions)
        ]
        try:
            while pending := [each.future for each in running if not each.look()]:
                check_deadline(deadline)
                wait(pending, LOOK_S, FIRST_COMPLETED)
            return [each.rows for each in running]
        except MilepostError:
            for each in running:
                each.kill()
            raise


class _Running:
    """A statement on one shard: on one replica after another, until one answers."""

    def __init__(
        self,
        shard: Shard,
        statement: str,
        mapped: Sequence[MappedTable],
        deadline: float | None,
        pool: ThreadPoolExecutor,
        calls: ThreadPoolExecutor,
    ) -> None:
        self._shard, self._statement, self._deadline = shard, statement, deadline
        self._mapped = mapped
        self._pool, self._calls = pool, calls
        self._name = secrets.token_hex(16)
        self._reasons: list[str] = []
        self._candidates = iter(sorted(shard.replicas, key=lambda replica: replica.is_resting))
        self.rows: Rows = ()
        self._begin()

    def look(self) -> bool:
        """Whether the rows are there. Goes on to the next replica when this one failed or is dead."""
        if self.future.done():
            try:
                self.rows = self.future.result()
            except StoreUnavailable as error:
                self._give_up(str(error))
                return False
            return True
        if self._quiet.is_dead():
            self._give_up(f"the server {self._replica.server.address.name} is silent")
        return False

    def kill(self) -> None:
        """Ends the statement where it runs. A server that cannot be told ends it at its time limit."""
        if not self.future.done() and not self.future.cancel():
            self._calls.submit(self._replica.server.kill, self._name)

    def _begin(self) -> None:
        for replica in self._candidates:
            if replica.is_behind:
                self._reasons.append(f"the server {replica.server.address.name} lacks the latest writes")
                continue
            self._replica = replica
            self._quiet = Quiet(replica.server, self._calls)
            self.future: Future[Rows] = self._pool.submit(self._ask, replica, replica.is_resting)
            return
        raise StoreUnavailable(f"{self._shard.name} cannot be read: {'; '.join(self._reasons)}")

    def _ask(self, replica: Replica, has_failed: bool) -> Rows:
        server = replica.server
        if has_failed:
            server.check_alive()
        for each in self._mapped:
            replica.check_rows(each, self._deadline)
        try:
            return server.query(
                self._statement, deadline=self._deadline, name=self._name, reads_others=bool(self._mapped)
            )
        except StoreUnavailable:
            # Perhaps it has not their rows any more. Then the check says so.
            for each in self._mapped:
                replica.check_rows(each, self._deadline, again=True)
            raise

    def _give_up(self, reason: str) -> None:
        self._replica.rest()
        self._reasons.append(reason)
        self._begin()
