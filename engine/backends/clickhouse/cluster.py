"""A cluster: shards that split the users by partition, each with replicas that hold the same rows.

A statement runs on one replica of each shard that it concerns, and the rows are put together here. A user is
in one shard whole, so sizes add up and members of different shards differ. A shard of which no replica
answers is an error, never a smaller answer.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from engine.backends.clickhouse.query.folding import FOLDED_CHARACTERS, Folding
from engine.backends.clickhouse.server import Server
from engine.deadline import check_deadline
from engine.errors import DeadlineExceeded, StoreUnavailable
from engine.values import PARTITION_COUNT

LOOK_S = 0.02
"""Interval between looks at whether the caller has given up."""
REST_S = 5.0
"""Time for which a replica that did not answer is asked after the others."""
STATEMENTS_MAX = 64
"""Statements that run at once, on all servers together. More wait."""

Rows = Sequence[Sequence[Any]]


class Replica:
    """A server of a shard, and whether it can be read."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_behind = False
        """True while it lacks rows that the others have: it must not be read."""
        self.failed_at = float("-inf")

    @property
    def is_resting(self) -> bool:
        """Whether it failed to answer a moment ago."""
        return time.monotonic() - self.failed_at < REST_S


class Shard:
    """Replicas that hold the users of some partitions."""

    def __init__(self, partitions: range, replicas: Sequence[Replica]) -> None:
        self.partitions = partitions
        self.replicas = tuple(replicas)

    def read(self, ask: Callable[[Server], Rows]) -> Rows:
        """The answer of the first replica that gives one. Raises StoreUnavailable when none does."""
        reasons = []
        for replica in sorted(self.replicas, key=lambda each: each.is_resting):
            if replica.is_behind:
                reasons.append(f"the server {replica.server.address.name} lacks the latest writes")
                continue
            try:
                return ask(replica.server)
            except StoreUnavailable as error:
                replica.failed_at = time.monotonic()
                reasons.append(str(error))
        span = f"{self.partitions.start} to {self.partitions.stop - 1}"
        raise StoreUnavailable(f"partitions {span} cannot be read: {'; '.join(reasons)}")


class Cluster:
    """Shards with equal shares of the partitions, in order."""

    def __init__(self, shards: Sequence[Sequence[Server]]) -> None:
        bounds = [PARTITION_COUNT * number // len(shards) for number in range(len(shards) + 1)]
        self.shards = tuple(
            Shard(range(start, end), [Replica(server) for server in servers])
            for (start, end), servers in zip(itertools.pairwise(bounds), shards, strict=True)
        )
        self._pool = ThreadPoolExecutor(STATEMENTS_MAX, "clickhouse")
        self._lock = threading.Lock()
        self._folding: Folding | None = None

    def close(self) -> None:
        """Waits for the statements that run, and closes all connections."""
        self._pool.shutdown()
        for replica in self.replicas():
            replica.server.close()

    def replicas(self) -> Iterator[Replica]:
        """All replicas of all shards."""
        return (replica for shard in self.shards for replica in shard.replicas)

    def shard_of(self, partition: int) -> Shard:
        """The shard that holds a partition."""
        return next(shard for shard in self.shards if partition in shard.partitions)

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
    ) -> list[Rows]:
        """The rows of a statement from each shard with some of the partitions (None = from all shards), in
        the order of shards.

        Raises StoreUnavailable when a shard cannot be read, DeadlineExceeded when the deadline passes or the
        caller gives up; then the statement ends on the servers too.
        """
        wanted = None if partitions is None else set(partitions)
        shards = [shard for shard in self.shards if wanted is None or not wanted.isdisjoint(shard.partitions)]
        running = [_Running(shard, statement, deadline) for shard in shards]
        futures: list[Future[Rows]] = [self._pool.submit(each.run) for each in running]
        try:
            pending = set(futures)
            while pending:
                check_deadline(deadline)
                _, pending = wait(pending, timeout=LOOK_S)
            return [future.result() for future in futures]
        except DeadlineExceeded:
            for each, future in zip(running, futures, strict=True):
                if not future.cancel():
                    self._pool.submit(each.kill)
            raise


class _Running:
    """A statement on one shard."""

    def __init__(self, shard: Shard, statement: str, deadline: float | None) -> None:
        self._shard, self._statement, self._deadline = shard, statement, deadline
        self._name = secrets.token_hex(16)
        self._server: Server | None = None

    def run(self) -> Rows:
        return self._shard.read(self._ask)

    def _ask(self, server: Server) -> Rows:
        self._server = server
        return server.query(self._statement, deadline=self._deadline, name=self._name)

    def kill(self) -> None:
        """Ends the statement where it runs. A server that cannot be told ends it at its time limit."""
        if self._server is not None:
            self._server.kill(self._name)
