"""ClickHouse servers for tests: processes on 127.0.0.1, or servers of your own."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.migrations import migrate
from engine.backends.clickhouse.server import Address, Server
from tests import brokers
from tests.engine.backends.clickhouse import library, listener

OWN = "MILEPOST_TEST_CLICKHOUSE"
"""Servers to use: `HOST:PORT,…`, one shard each; `HOST:PORT+HOST:PORT` are replicas of one. They may be asked
for a user: `USER:PASSWORD@HOST:PORT`. Each test makes and drops databases `milepost_test_…` of its own.
"""


class ClickHouseServer(brokers.Server):
    """A server in a process."""

    def command(self, port: int) -> Sequence[str]:
        """The program that loads the library."""
        return [
            *(sys.executable, listener.__file__),
            *(str(library.path()), str(self.directory / "store"), str(port)),
        ]

    def is_ready(self, port: int) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(f"http://{brokers.HOST}:{port}/ping", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(host=brokers.HOST, port=self.port)

    @property
    def pid(self) -> int:
        """The id of its process."""
        assert self._process is not None
        return self._process.pid

    def stall(self) -> None:
        """Stops it without closing its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Lets a stalled server run again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def own_servers() -> list[list[Address]]:
    """The shards of one's own servers; none unless they are given."""
    given = os.environ.get(OWN, "")
    return [[_address(each) for each in shard.split("+")] for shard in given.split(",") if shard]


def _address(given: str) -> Address:
    user, _, place = given.rpartition("@")
    host, _, port = place.rpartition(":")
    name, _, password = user.partition(":")
    return Address(host=host, port=int(port), user=name or "default", password=password)


WHOLE = "MILEPOST_TEST_CLUSTER"
"""Set, all tests run: `make test` leaves out those that take long or start four servers."""


def reason_to_leave_out() -> str:
    """Why `make test` does not run a test that takes long; "" when it is to run."""
    return "" if os.environ.get(WHOLE) else "takes long; `make test-cluster` runs it"


def reason_without_cluster() -> str:
    """Why a test does not start four servers; "" when it does."""
    return reason_to_leave_out() or reason_not_to_start()


def reason_not_to_start() -> str:
    """Why no server can be started; "" when one can."""
    if library.path().exists():
        return ""
    return f"no ClickHouse: {library.path()} is not there; `make test-cluster` downloads it"


def reason_to_skip() -> str:
    """Why no server can be started or used; "" when one can."""
    return "" if own_servers() else reason_not_to_start()


@contextmanager
def started(directory: Path, shards: int, replicas: int) -> Iterator[list[list[ClickHouseServer]]]:
    """New servers."""
    with ExitStack() as stack:
        yield [
            [
                stack.enter_context(ClickHouseServer(directory / f"{shard}-{replica}"))
                for replica in range(replicas)
            ]
            for shard in range(shards)
        ]


_databases = itertools.count(1)


@contextmanager
def fresh_cluster(shards: Sequence[Sequence[Address]]) -> Iterator[Cluster]:
    """A cluster over a new database on each server, which is dropped in the end."""
    database = f"milepost_test_{os.getpid()}_{secrets.token_hex(4)}_{next(_databases)}"
    servers = [[Server(address, database) for address in shard] for shard in shards]
    for server in itertools.chain(*servers):
        migrate(server)
    cluster = Cluster(servers)
    try:
        yield cluster
    finally:
        for server in itertools.chain(*servers):
            server.make_database(f"DROP DATABASE IF EXISTS {database}")
        cluster.close()
