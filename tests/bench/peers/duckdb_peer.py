"""DuckDB over a database file, rows sorted so that its zone maps skip what a question does not need."""

from __future__ import annotations

from pathlib import Path

import duckdb

from tests.bench.peers.peer import DUCKDB, EVENT_ORDERS, USERS

_DATABASE = "world.duckdb"


class DuckdbPeer:
    """Event names, categories and plans are enums, amounts DECIMAL(9,2), times TIMESTAMP (microseconds)."""

    name = DUCKDB.peer

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._connection = duckdb.connect(directory / _DATABASE)
        self._connection.execute("SET TimeZone = 'UTC'")

    def load(self, users: Path, events: Path) -> None:
        execute = self._connection.execute
        execute("BEGIN")
        for column in ("name", "category"):
            execute(
                f"CREATE TYPE {column}_enum AS ENUM (SELECT DISTINCT {column} FROM '{events}' ORDER BY 1)"
            )
        for column in ("plan", "country"):
            execute(f"CREATE TYPE {column}_enum AS ENUM (SELECT DISTINCT {column} FROM '{users}' ORDER BY 1)")
        for table, order in EVENT_ORDERS.items():
            execute(
                f"CREATE TABLE {table} AS SELECT user_number, name::name_enum AS name, time, amount, "
                f"category::category_enum AS category FROM '{events}' ORDER BY {order}"
            )
        execute(
            f"CREATE TABLE {USERS} AS "
            f"SELECT * REPLACE (plan::plan_enum AS plan, country::country_enum AS country) "
            f"FROM '{users}' ORDER BY user_number"
        )
        execute("COMMIT")
        execute("CHECKPOINT")

    def number(self, sql: str) -> int:
        row = self._connection.execute(sql).fetchone()
        assert row is not None
        return int(row[0])

    def version(self) -> str:
        return duckdb.__version__

    def close(self) -> None:
        self._connection.close()
