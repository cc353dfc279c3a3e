"""Tables of others whose rows are events of an input. They are read in place, and never written.

A table has to be there under one name on every server of the cluster, each time with all rows: `user`,
`name`, `time`, a `mark`, and if it likes `type` and attributes by kind. Rows are only ever added, and a row
that is added has a mark above all that were followed. The gateway follows the marks. How far it has come is a
`Reach`, which belongs to a revision: a statement as of that revision counts the rows within the reach, and a
server that has more or fewer of these than were followed is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from engine.backends.clickhouse.tables import quoted
from engine.checks import is_longer
from engine.errors import InvalidInput
from engine.values import PARTITION_COUNT, Kind, Micros, partition_of

USER, NAME, TIME, MARK, TYPE = "user", "name", "time", "mark", "type"
ATTRIBUTES: Mapping[str, Kind] = {
    "attributes": Kind.STRING,
    "numbers": Kind.NUMBER,
    "bools": Kind.BOOL,
    "times": Kind.TIME,
    "lists": Kind.LIST,
}
"""The columns that have attributes, and the kind of their values."""

MARK_MAX = (1 << 63) - 1
"""Rows with a higher mark are not followed."""
TABLE_BYTES_MAX = 512
"""Bytes of the name of a table with its database."""
SETTLE_S_MAX = 86_400.0
"""Seconds for which a mark may have to be known before its rows count."""

_TEXT = r"(?:LowCardinality\(String\)|String)"
_TIME = r"(?:Int64|DateTime(?:\('[^']*'\))?|DateTime64\([0-6](?:, '[^']*')?\))"
_KEYED = rf"Map\({_TEXT}, %s\)"
_TYPES: Mapping[str, tuple[str, str]] = {
    USER: (_TEXT, "String"),
    NAME: (_TEXT, "String"),
    TIME: (_TIME, "DateTime64(6), DateTime, or Int64 in microseconds since 1970"),
    MARK: (
        r"(?:U?Int(?:8|16|32|64)|DateTime(?:\('[^']*'\))?|DateTime64\([0-6](?:, '[^']*')?\))",
        "an integer, DateTime or DateTime64(6)",
    ),
    TYPE: (_TEXT, "String"),
    "attributes": (_KEYED % _TEXT, "Map(String, String)"),
    "numbers": (_KEYED % "Float64", "Map(String, Float64)"),
    "bools": (_KEYED % "(?:Bool|UInt8)", "Map(String, Bool)"),
    "times": (_KEYED % _TIME, "Map(String, DateTime64(6))"),
    "lists": (_KEYED % rf"Array\({_TEXT}\)", "Map(String, Array(String))"),
}
"""By column, the types it may have, as a pattern and in words."""
NEEDED = (USER, NAME, TIME, MARK)


class Reach(msgspec.Struct, frozen=True, order=True):
    """How far a table was followed: all rows with lower marks, and those with this mark whose users are in
    partitions up to `partition`. So an insert of millions of rows with one mark is followed in pieces.
    """

    mark: int = -1
    partition: int = PARTITION_COUNT - 1

    @property
    def is_whole(self) -> bool:
        """Whether all rows with the mark are within."""
        return self.partition == PARTITION_COUNT - 1

    def since(self, user: str) -> int:
        """The mark from which on rows of a user id are not within."""
        return self.mark + 1 if partition_of(user) <= self.partition else max(0, self.mark)


class MappedTable(msgspec.Struct, frozen=True, kw_only=True):
    """A table of others, and what counts of it. Never changed in place: a view shares it."""

    source: int
    """The revision at which it was mapped: an input that is mapped again has another one."""
    input: str
    """Resource name."""
    table: str
    """`DATABASE.NAME`, in backticks where needed."""
    columns: dict[str, str]
    """Its type by column."""
    settle_s: float = 0.0
    """Seconds for which a mark has to be known before its rows are followed: time for inserts that were begun
    before, and for replicas, to get there.
    """
    reach: Reach = Reach()
    rows: int = 0
    """Rows within the reach."""
    events: int = 0
    """Those of them that are events: the others are wrong."""
    has_ids: bool = False
    """Whether `ids` says something of users."""
    removals: tuple[tuple[Micros, Reach], ...] = ()
    """Events before an instant do not count if they are within a reach: (instant, reach)."""
    is_on: bool = True
    """False once it was unmapped: its rows do not count. What is known stays, so that rows of users who are
    erased do not count either if it is mapped again.
    """

    def removed(self, before: Micros) -> MappedTable:
        """Without the events before an instant that were followed."""
        kept = (each for each in self.removals if each[0] > before)
        return msgspec.structs.replace(self, removals=(*kept, (before, self.reach)))


def account_of_input(input_name: str) -> str:
    """The account of an input. Raises InvalidInput for a text that is no name of one."""
    found = re.fullmatch(r"(accounts/[^/]+)/workspaces/[^/]+/inputs/[^/]+", input_name)
    if found is None:
        form = "accounts/{account}/workspaces/{workspace}/inputs/{input}"
        raise InvalidInput.one("input", f"expected {form}, got {input_name!r}")
    return found[1]


def table_name(table: str) -> str:
    """`DATABASE.NAME` as statements have it. Raises InvalidInput."""
    if is_longer(table, TABLE_BYTES_MAX):
        raise InvalidInput.one("table", f"is longer than {TABLE_BYTES_MAX} bytes")
    database, dot, name = table.partition(".")
    if not (dot and database and name) or not table.isprintable():
        raise InvalidInput.one("table", f"expected DATABASE.NAME, got {table!r}")
    return f"{quoted(database)}.{quoted(name)}"


def checked_settle_s(settle_s: float) -> float:
    """The seconds. Raises InvalidInput for fewer than none, or more than `SETTLE_S_MAX`."""
    if not 0 <= settle_s <= SETTLE_S_MAX:
        raise InvalidInput.one("settle_s", f"expected 0 to {SETTLE_S_MAX:g} seconds, got {settle_s:g}")
    return settle_s


def checked_columns(found: Mapping[str, str]) -> dict[str, str]:
    """The columns that are read of a table with these types, by name. Raises InvalidInput."""
    for column in NEEDED:
        if column not in found:
            raise InvalidInput.one("table", f"has no column {column!r}: map a view that has it")
    columns = {column: found[column] for column in _TYPES if column in found}
    for column, type_ in columns.items():
        pattern, words = _TYPES[column]
        if not re.fullmatch(pattern, type_):
            raise InvalidInput.one("table", f"the column {column!r} is {type_}; expected {words}")
    return columns
