"""One server of a cluster, and what its errors mean to the engine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import clickhouse_connect
import msgspec
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, Error
from urllib3 import PoolManager
from urllib3.exceptions import HTTPError

from engine.backends.clickhouse.tables import COLUMNS
from engine.errors import DeadlineExceeded, LimitExceeded, StoreUnavailable

CONNECT_S_MAX = 5
STATEMENT_S_MAX = 60
"""Seconds that a statement takes at most, without a deadline of its own. A server that is silent for longer
counts as unavailable.
"""
SILENCE_S_MAX = STATEMENT_S_MAX + 5
ALIVE_S_MAX = 2.0
"""Seconds in which a server says that it is alive, whatever else it does."""
STATEMENT_BYTES_MAX = 64 << 20
STATEMENT_NODES_MAX = 2_000_000
"""Nodes of a parsed statement. A plan's `in` may have 10,000 values, and a user's cuts are in it too."""
PARSER_DEPTH_MAX = 10_000
"""Nesting that a server parses: a query in another takes about ten. It looks after its stack as well."""
MEMORY_BYTES_MAX = 4 << 30
"""Memory of a statement on each server. Groups of users go to disk before."""
RESULT_BYTES_MAX = 512 << 20
"""What a statement returns at most. The rows take several times as much memory here."""

SETTINGS: Mapping[str, int | str] = {
    "async_insert": 0,  # an insert is acknowledged once it is stored
    "compile_aggregate_expressions": 0,  # no two plans are the same: compiling them costs more than it saves
    "compile_expressions": 0,
    "insert_deduplicate": 1,
    "max_ast_elements": STATEMENT_NODES_MAX,
    "max_bytes_before_external_group_by": MEMORY_BYTES_MAX // 2,
    "max_expanded_ast_elements": STATEMENT_NODES_MAX,
    "max_memory_usage": MEMORY_BYTES_MAX,
    "max_parser_depth": PARSER_DEPTH_MAX,
    "max_query_size": STATEMENT_BYTES_MAX,
    "max_result_bytes": RESULT_BYTES_MAX,
    # Passes over conditions that find nothing in a plan's, and take most of the CPU of a large one.
    "optimize_and_compare_chain": 0,
    "optimize_extract_common_expressions": 0,
    "result_overflow_mode": "throw",
    "timeout_overflow_mode": "throw",
}

_OK = 200
_TIMED_OUT = 159
_MEMORY_LIMIT = 241
_CANCELLED = 394
_RESULT_LIMIT = 396
_PASSING = frozenset(
    {
        60,  # UNKNOWN_TABLE: another server has this address now, or one that is being restored
        81,  # UNKNOWN_DATABASE
        202,  # TOO_MANY_SIMULTANEOUS_QUERIES
        203,  # NO_FREE_CONNECTION
        209,  # SOCKET_TIMEOUT
        210,  # NETWORK_ERROR
        236,  # ABORTED
        242,  # TABLE_IS_READ_ONLY
        243,  # NOT_ENOUGH_SPACE
        252,  # TOO_MANY_PARTS
        395,  # FUNCTION_THROW_IF_VALUE_IS_NON_ZERO: it has not all of a base
        499,  # S3_ERROR
        516,  # AUTHENTICATION_FAILED
    }
)
"""Errors about the state of a server, not about the statement. What else a server refuses is a fault of ours,
and is raised as it is.
"""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server listens for HTTP, and as whom to call it."""

    host: str
    port: int
    user: str = "default"
    password: str = ""
    is_secure: bool = False

    @property
    def name(self) -> str:
        """The address without secrets."""
        return f"{self.host}:{self.port}"


class Server:
    """A server's database. Safe to use from several threads.

    All methods raise StoreUnavailable when it does not answer or refuses, and DeadlineExceeded when a
    statement took too long.
    """

    def __init__(self, address: Address, database: str) -> None:
        self.address = address
        self.database = database
        self._client: Client | None = None
        self._alive = PoolManager(timeout=ALIVE_S_MAX, retries=False)

    def close(self) -> None:
        """Closes its connections."""
        self._alive.clear()
        if self._client is not None:
            self._client.close()

    def is_alive(self) -> bool:
        """Whether it says so, within `ALIVE_S_MAX`."""
        address = self.address
        url = f"{'https' if address.is_secure else 'http'}://{address.name}/ping"
        try:
            return bool(self._alive.request("GET", url).status == _OK)
        except HTTPError:
            return False

    def check_alive(self) -> None:
        """Raises StoreUnavailable unless it says that it is alive: a server that is silent would be waited
        for until a statement is given up.
        """
        if not self.is_alive():
            raise StoreUnavailable(f"the server {self.address.name} does not answer")

    def query(
        self,
        statement: str,
        *,
        deadline: float | None = None,
        name: str = "",
        reads_others: bool = False,
    ) -> Sequence[Sequence[Any]]:
        """The rows of a statement. `name` is one to kill it by. `reads_others`: it reads a table of others,
        so whatever else the server refuses is taken for a fault of that table, and it is unavailable.
        """
        seconds = STATEMENT_S_MAX if deadline is None else min(deadline - time.monotonic(), STATEMENT_S_MAX)
        if seconds <= 0:
            raise DeadlineExceeded("the deadline passed before the answer was ready")
        settings: dict[str, Any] = {"max_execution_time": seconds}
        if name:
            settings["query_id"] = name
        try:
            return self._connected().query(statement, settings=settings).result_rows
        except (ClickHouseError, OSError) as error:
            meaning = self._meaning(error)
            if meaning is error and reads_others and isinstance(error, Error):
                meaning = self._refuses(error.code)
            raise meaning from error

    def kill(self, name: str) -> None:
        """Ends a statement that was given a name; none is fine."""
        self.command(f"KILL QUERY WHERE query_id = '{name}' ASYNC")

    def insert(self, table: str, columns: Sequence[Sequence[Any]], token: str) -> None:
        """Adds rows, given by column, unless an insert with the token has added them before."""
        try:
            self._connected().insert(
                table,
                columns,
                column_names=COLUMNS[table],
                column_oriented=True,
                settings={"insert_deduplication_token": token},
            )
        except (ClickHouseError, OSError) as error:
            raise self._meaning(error) from error

    def command(self, statement: str) -> None:
        """Runs a statement without rows."""
        try:
            self._connected().command(statement)
        except (ClickHouseError, OSError) as error:
            raise self._meaning(error) from error

    def make_database(self, statement: str) -> None:
        """Runs a statement outside the database, which may not be there yet."""
        try:
            with self._connect(None) as client:
                client.command(statement)
        except (ClickHouseError, OSError) as error:
            raise self._meaning(error) from error

    def _connected(self) -> Client:
        if self._client is None:
            self._client = self._connect(self.database)
        return self._client

    def _connect(self, database: str | None) -> Client:
        address = self.address
        return clickhouse_connect.get_client(
            host=address.host,
            port=address.port,
            username=address.user,
            password=address.password,
            secure=address.is_secure,
            database=database,
            autogenerate_session_id=False,
            connect_timeout=CONNECT_S_MAX,
            send_receive_timeout=SILENCE_S_MAX,
            query_retries=0,
            settings=dict(SETTINGS),
        )

    def _meaning(self, error: Exception) -> Exception:
        code = error.code if isinstance(error, Error) else None
        if code in (_TIMED_OUT, _CANCELLED):
            return DeadlineExceeded("the deadline passed before the answer was ready")
        if code == _MEMORY_LIMIT:
            return LimitExceeded(
                f"the plan takes more than {MEMORY_BYTES_MAX >> 30} GiB of memory on a server"
            )
        if code == _RESULT_LIMIT:
            return LimitExceeded(f"the answer takes more than {RESULT_BYTES_MAX >> 20} MiB on a server")
        if code is None:
            return StoreUnavailable(f"the server {self.address.name} does not answer")
        return self._refuses(code) if code in _PASSING else error

    def _refuses(self, code: int | None) -> StoreUnavailable:
        return StoreUnavailable(f"the server {self.address.name} refuses statements with its error {code}")
