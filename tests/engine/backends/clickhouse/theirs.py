"""A table of others for tests: on every server, with a view over it in the form that is mapped."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from engine.backends.base import EventRecord
from engine.backends.clickhouse.server import Address, Server
from engine.errors import StoreUnavailable
from engine.values import Kind, kind_of

_COLUMNS = {
    "customer": "String",
    "what": "LowCardinality(String)",
    "at": "Int64",
    "kind": "String",
    "arrived": "UInt64",
    "texts": "Map(String, String)",
    "amounts": "Map(String, Float64)",
    "flags": "Map(String, Bool)",
    "moments": "Map(String, Int64)",
    "labels": "Map(String, Array(String))",
}
VIEW = (
    "SELECT customer AS user, what AS name, at AS time, kind AS type, arrived AS mark, texts AS attributes,"
    " amounts AS numbers, flags AS bools, moments AS times, labels AS lists"
)
_MAPS = (Kind.STRING, Kind.NUMBER, Kind.BOOL, Kind.TIME, Kind.LIST)


class Theirs:
    """Rows get marks in order, unless they are given."""

    def __init__(self, shards: Sequence[Sequence[Address]]) -> None:
        self.database = f"theirs_{os.getpid()}_{secrets.token_hex(4)}"
        self.servers = [Server(address, self.database) for address in itertools.chain(*shards)]
        self.table = f"{self.database}.events"
        self._marks = itertools.count(1)
        columns = ", ".join(f"{name} {type_}" for name, type_ in _COLUMNS.items())
        for server in self.servers:
            server.make_database(f"CREATE DATABASE {self.database}")
            server.command(f"CREATE TABLE rows ({columns}) ENGINE = MergeTree ORDER BY arrived")
        self.make_view(VIEW)

    def make_view(self, select: str) -> None:
        """Makes the view anew."""
        for server in self.servers:
            server.command(f"CREATE OR REPLACE VIEW events AS {select} FROM {self.database}.rows")

    def insert(
        self,
        events: Sequence[EventRecord],
        *,
        mark: int | None = None,
        servers: Sequence[Server] | None = None,
    ) -> None:
        """Adds rows to all servers, or to some."""
        rows = [_row(event, next(self._marks) if mark is None else mark) for event in events]
        for server in self.servers if servers is None else servers:
            server._connected().insert("rows", rows, column_names=list(_COLUMNS))

    def next_mark(self) -> int:
        """One that no row has."""
        return next(self._marks)

    def run(self, statement: str, servers: Sequence[Server] | None = None) -> None:
        """Runs a statement in their database on all servers, or on some."""
        for server in self.servers if servers is None else servers:
            server.command(statement)

    def drop(self) -> None:
        """Drops their database."""
        for server in self.servers:
            # A server that a test has ended takes its databases with it.
            with suppress(StoreUnavailable):
                server.make_database(f"DROP DATABASE IF EXISTS {self.database}")
            server.close()


@contextmanager
def their_table(shards: Sequence[Sequence[Address]]) -> Iterator[Theirs]:
    """A table that is dropped in the end."""
    made = Theirs(shards)
    try:
        yield made
    finally:
        made.drop()


def _row(event: EventRecord, mark: int) -> list[Any]:
    maps: Mapping[Kind, dict[str, Any]] = {kind: {} for kind in _MAPS}
    for key, value in event.attributes.items():
        kind = kind_of(value)
        maps[kind][key] = list(value) if isinstance(value, tuple) else value
    own = (maps[kind] for kind in _MAPS)
    return [event.user_id, event.name, event.time, event.type.name, mark, *own]
