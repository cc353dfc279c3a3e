"""Stores in a cluster for tests, each with a directory and a database of its own."""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast
from urllib.parse import quote

from engine.backends import registry
from engine.backends.base import Backend
from engine.backends.clickhouse.server import Address, Server
from engine.errors import StoreUnavailable


class Databases:
    """Opens stores on some servers."""

    def __init__(self, shards: Sequence[Sequence[Address]]) -> None:
        self._shards = shards
        self._prefix = f"milepost_test_{os.getpid()}_{secrets.token_hex(4)}"
        self._names: set[str] = set()

    def url(self, directory: Path) -> str:
        """The URL of the store whose gateway has a directory."""
        database = f"{self._prefix}_{hashlib.blake2b(str(directory).encode(), digest_size=6).hexdigest()}"
        self._names.add(database)
        places = ",".join("+".join(address.name for address in shard) for shard in self._shards)
        first = self._shards[0][0]
        user = f"{quote(first.user, safe='')}:{quote(first.password, safe='')}@"
        return f"clickhouse://{user}{places}?gateway={quote(str(directory))}&database={database}"

    def open(self, directory: Path) -> Backend:
        """Opens or creates a store. It checkpoints only on request."""
        return cast(Backend, registry.open_store(self.url(directory), settings={"checkpoint_s": 3_600.0}))

    def drop(self) -> None:
        """Drops all databases."""
        for address, database in itertools.product(itertools.chain(*self._shards), self._names):
            server = Server(address, database)
            # A server that a test has ended takes its databases with it.
            with suppress(StoreUnavailable):
                server.make_database(f"DROP DATABASE IF EXISTS {database}")
            server.close()


@contextmanager
def databases_on(shards: Sequence[Sequence[Address]]) -> Iterator[Databases]:
    """Stores on some servers, whose databases are dropped in the end."""
    databases = Databases(shards)
    try:
        yield databases
    finally:
        databases.drop()
