"""Servers of a cluster that are killed or stopped, and go on later."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.backends.clickhouse.server import Server
from engine.backends.clickhouse.tables import COLUMNS
from tests.engine.backends.clickhouse.servers import ClickHouseServer

KINDS = ("kill", "kill", "stall", "shard")
"""What can go wrong with servers: one is killed or stopped, or all replicas of a shard are killed."""


class Outages:
    """Which servers of two shards of two replicas are away."""

    def __init__(
        self,
        servers: Sequence[Sequence[ClickHouseServer]],
        source: random.Random,
        counts: Counter[str],
    ) -> None:
        self._shards, self._source, self._counts = servers, source, counts
        self.killed: list[ClickHouseServer] = []
        self.stalled: list[ClickHouseServer] = []

    @property
    def running(self) -> list[ClickHouseServer]:
        """Those that answer."""
        away = (*self.killed, *self.stalled)
        return [server for shard in self._shards for server in shard if server not in away]

    def hit(self, kind: str) -> None:
        """Something of `KINDS` happens to servers that run."""
        running = self.running
        if kind == "shard":
            for server in self._source.choice(self._shards):
                if server in running:
                    self.kill(server)
        elif running:
            server = self._source.choice(running)
            if kind == "stall":
                self._stall(server)
            else:
                self.kill(server)

    def kill(self, server: ClickHouseServer) -> None:
        """A server ends."""
        server.kill()
        self.killed.append(server)
        self._counts["servers killed"] += 1

    def _stall(self, server: ClickHouseServer) -> None:
        server.stall()
        self.stalled.append(server)
        self._counts["servers stopped"] += 1

    def mend(self, *, one: bool) -> None:
        """One server that was killed and one that was stopped go on, or all of them."""
        for server in self.stalled[:1] if one else tuple(self.stalled):
            server.go_on()
            self.stalled.remove(server)
        for server in self.killed[:1] if one else tuple(self.killed):
            server.start()
            self.killed.remove(server)


class Slowest:
    """The longest times of what succeeded, by kind."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Times what is done in the block, unless it raises."""
        began = time.monotonic()
        yield
        self.seconds[kind] = max(self.seconds.get(kind, 0.0), time.monotonic() - began)


def unlike_replicas(shards: Sequence[Sequence[Server]]) -> Iterator[str]:
    """Where servers of a shard have different rows."""
    for servers in shards:
        for table, columns in COLUMNS.items():
            statement = f"SELECT {', '.join(columns)} FROM {table}"
            rows = [Counter(map(repr, server.query(statement))) for server in servers]
            for one, other in itertools.permutations(range(len(servers)), 2):
                if more := rows[one] - rows[other]:
                    names = [servers[each].address.name for each in (one, other)]
                    yield f"{names[0]} has more {table} than {names[1]}: {dict(more)}"
