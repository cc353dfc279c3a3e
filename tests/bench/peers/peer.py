"""The interface of a peer.

Both peers hold the events twice, sorted by (name, time, user) and by (name, user, time), so that either order
can serve a question, and the users once, by number. Users are known by their numbers, names and categories by
dictionary codes, amounts as decimals, times to the microsecond: each peer's own best types.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from engine.values import Micros

EVENTS_BY_TIME = "events_by_time"
EVENTS_BY_USER = "events_by_user"
EVENT_ORDERS = {EVENTS_BY_TIME: "name, time, user_number", EVENTS_BY_USER: "name, user_number, time"}
USERS = "users"
USERS_BY_DAY = "users_by_day"
"""ClickHouse only: for each event name and day (UTC) the roaring bitmap of the users that had it."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """Differences between the SQL dialects of the peers."""

    peer: str
    instant_format: str
    first: str
    last: str
    day_number: str
    day_bits: str
    """How many distinct days in a window of at most 63, the first of them number {start}: bits, counted."""
    category_bits: str
    matches: str

    def instant(self, micros: Micros) -> str:
        return self.instant_format.format(micros)


DUCKDB = Dialect(
    peer="DuckDB",
    instant_format="make_timestamp({})",
    first="arg_min",
    last="arg_max",
    day_number="time::DATE",
    day_bits="bit_count(bit_or(1::BIGINT << (time::DATE - DATE '1970-01-01' - {start})))",
    category_bits="bit_count(bit_or(1::BIGINT << enum_code(category)))",
    matches="regexp_matches",
)
CLICKHOUSE = Dialect(
    peer="chdb",
    instant_format="fromUnixTimestamp64Micro({}, 'UTC')",
    first="argMin",
    last="argMax",
    day_number="toDate(time)",
    day_bits="bitCount(groupBitOr(bitShiftLeft(toUInt64(1), toUInt16(toDate(time)) - {start})))",
    category_bits="bitCount(groupBitOr(bitShiftLeft(toUInt64(1), toUInt8(category))))",
    matches="match",
)


class Peer(Protocol):
    """A database in this process, with its default number of threads."""

    name: str

    def load(self, users: Path, events: Path) -> None:
        """Fills the tables from the two Parquet files of `synthetic.write_parquet`."""
        ...

    def number(self, sql: str) -> int:
        """The only value of the only row of the answer."""
        ...

    def version(self) -> str: ...

    def close(self) -> None: ...


def directory_bytes(directory: Path) -> int:
    """Disk usage of the files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
