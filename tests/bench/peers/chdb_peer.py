"""ClickHouse in this process (chdb): MergeTree tables of one part, and bitmaps of the users of each day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chdb import session

from tests.bench.peers.peer import CLICKHOUSE, EVENT_ORDERS, EVENTS_BY_TIME, USERS, USERS_BY_DAY
from tests.bench.synthetic import CATEGORIES

_CATEGORY_CODES = ", ".join(f"'{category}' = {code}" for code, category in enumerate(CATEGORIES))
_EVENT_COLUMNS = {
    "user_number": "UInt32",
    "name": "LowCardinality(String)",
    "time": "DateTime64(6, 'UTC')",
    "amount": "Decimal(9, 2)",
    "category": f"Enum8({_CATEGORY_CODES})",
}
_USER_COLUMNS = {
    "user_number": "UInt32",
    "plan": "LowCardinality(String)",
    "country": "LowCardinality(String)",
    "score": "Int32",
    "email": "String",
    "consent": "Bool",
    "last_seen": "DateTime64(6, 'UTC')",
}


class ChdbPeer:
    """Names are LowCardinality strings, categories Enum8, amounts Decimal(9, 2), times DateTime64(6)."""

    name = CLICKHOUSE.peer

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        open_session: Any = session.Session  # untyped
        self._session = open_session(str(directory))
        self._run("CREATE DATABASE IF NOT EXISTS world ENGINE = Atomic")
        self._run("USE world")

    def load(self, users: Path, events: Path) -> None:
        for table, order in EVENT_ORDERS.items():
            self._create(table, _EVENT_COLUMNS, order, events)
        self._create(USERS, _USER_COLUMNS, "user_number", users)
        self._run(
            f"CREATE OR REPLACE TABLE {USERS_BY_DAY} ENGINE = MergeTree ORDER BY (name, day) AS "
            f"SELECT name, toDate(time) AS day, groupBitmapState(user_number) AS users "
            f"FROM {EVENTS_BY_TIME} GROUP BY name, day"
        )

    def _create(self, table: str, columns: dict[str, str], order: str, parquet: Path) -> None:
        declared = ", ".join(f"{name} {type_}" for name, type_ in columns.items())
        self._run(f"CREATE OR REPLACE TABLE {table} ({declared}) ENGINE = MergeTree ORDER BY ({order})")
        self._run(f"INSERT INTO {table} SELECT {', '.join(columns)} FROM file('{parquet}', Parquet)")
        self._run(f"OPTIMIZE TABLE {table} FINAL")

    def _run(self, sql: str) -> str:
        return str(self._session.query(sql, "TSV"))

    def number(self, sql: str) -> int:
        return int(self._run(sql))

    def version(self) -> str:
        return self._run("SELECT version()").strip()

    def close(self) -> None:
        self._session.close()
