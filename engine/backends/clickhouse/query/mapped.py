"""Rows of tables of others (`mapped.py`) as rows of `events`, and where events are read from.

A row counts when it is within the reach, its user id and name have 1 to `NAME_BYTES_MAX` bytes of UTF-8, its
type is known, and no removal or erasure was for it. Its user is the one that the id means by `ids`, which
decides what its partition is, and so which shard counts it: every shard has all rows, and takes its own.
Numbers that are not finite count as missing. Of rows at one instant those of a mapped table come after events
that were sent, in the order of their marks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import msgspec

from engine.backends.clickhouse.mapped import ATTRIBUTES, MARK, MARK_MAX, TYPE, USER, MappedTable, Reach
from engine.backends.clickhouse.query.literals import (
    FALSE,
    TRUE,
    all_of,
    any_of,
    int64,
    one_of,
    text,
    texts,
    uint64s,
)
from engine.backends.clickhouse.tables import COLUMNS, EVENTS, IDS, VALUE_COLUMNS
from engine.backends.clickhouse.view import View
from engine.criteria.model import EventType
from engine.limits import NAME_BYTES_MAX
from engine.values import PARTITION_BITS, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros

OF_SHARD = "\0shard\0"
"""Stands for the condition that p is one of the shard's that a statement goes to. Literals have no NUL."""

_FIRST_SEQ = 1 << 63
"""The place in the order of arrival of a row with mark 0: after every event that was sent."""
_MAP_TYPES = {
    Kind.STRING: "Map(LowCardinality(String), String)",
    Kind.NUMBER: "Map(LowCardinality(String), Float64)",
    Kind.BOOL: "Map(LowCardinality(String), UInt8)",
    Kind.TIME: "Map(LowCardinality(String), Int64)",
    Kind.LIST: "Map(LowCardinality(String), Array(String))",
}


def of_shard(statement: str, condition: str) -> str:
    """A statement as it goes to a shard, with the condition on its partitions."""
    return statement.replace(OF_SHARD, condition)


# --- how far ------------------------------------------------------------------------------------------------


def within(mapped: MappedTable, reach: Reach) -> str:
    """The condition on rows within a reach."""
    mark = _mark_literal(mapped, reach.mark)
    if reach.mark < 0:
        return FALSE
    if reach.is_whole:
        return f"{MARK} <= {mark}"
    return f"({MARK} < {mark} OR {MARK} = {mark} AND {_partition('user')} <= {reach.partition})"


def beyond(mapped: MappedTable, reach: Reach) -> str:
    """The condition on rows beyond a reach, up to the last mark that is followed."""
    mark = _mark_literal(mapped, reach.mark)
    if reach.mark < 0:
        first = f"{MARK} >= {_mark_literal(mapped, 0)}"
    elif reach.is_whole:
        first = f"{MARK} > {mark}"
    else:
        first = f"({MARK} > {mark} OR {MARK} = {mark} AND {_partition('user')} > {reach.partition})"
    return all_of([first, f"{MARK} <= {MARK_MAX}" if mapped.columns[MARK] == "UInt64" else TRUE])


def at_mark(mapped: MappedTable, mark: int) -> str:
    """The condition on rows with a mark."""
    return f"{MARK} = {_mark_literal(mapped, mark)}"


def below_mark(mapped: MappedTable, mark: int) -> str:
    """The condition on rows with a lower mark."""
    return f"{MARK} < {_mark_literal(mapped, mark)}"


def mark_number(mapped: MappedTable, mark: str = MARK) -> str:
    """A mark as an Int64."""
    return _instant(mapped.columns[MARK], mark)


def raw_partition() -> str:
    """The partition of the id in a row of their table."""
    return _partition("user")


def complete(mapped: MappedTable) -> str:
    """The condition that a server has the rows that were followed: it refuses the statement otherwise."""
    rows = f"SELECT throwIf(count() != {mapped.rows}, 'rows') FROM {mapped.table}"
    return f"({rows} WHERE {within(mapped, mapped.reach)}) = 0"


def _mark_literal(mapped: MappedTable, mark: int) -> str:
    """A mark in the type of its column, so that an index serves comparisons."""
    type_ = mapped.columns[MARK]
    if type_.startswith("DateTime64"):
        return f"fromUnixTimestamp64Micro({int64(mark)})"
    if type_.startswith("DateTime"):
        return f"toDateTime({max(0, mark) // 1_000_000})"
    return str(mark)


def _instant(type_: str, expression: str) -> str:
    """A time as microseconds since 1970, another integer as it is."""
    if type_.startswith("DateTime64"):
        return f"toUnixTimestamp64Micro({expression})"
    if type_.startswith("DateTime"):
        return f"(toInt64(toUnixTimestamp({expression})) * 1000000)"
    return expression if type_ == "Int64" else f"toInt64({expression})"


def _partition(user: str) -> str:
    return f"toUInt16(bitShiftRight(xxh3({user}), {64 - PARTITION_BITS}))"


# --- rows ---------------------------------------------------------------------------------------------------


def raw_rows(mapped: MappedTable, where: str) -> str:
    """Their rows under a condition on their columns, with `is_valid`, `user`, `name`, `type` and `time`."""
    columns = (
        f"{_is_valid(mapped)} AS is_valid, {_user(mapped)} AS user, toString(r_name) AS name,"
        f" {_type(mapped)} AS type, {_instant(mapped.columns['time'], 'r_time')} AS time"
    )
    return f"SELECT {columns} FROM ({_picked(mapped, where)})"


def _picked(mapped: MappedTable, where: str) -> str:
    """Their columns under names that no other column has."""
    columns = ", ".join(f"{column} AS r_{column}" for column in mapped.columns)
    return f"SELECT {columns} FROM {mapped.table} WHERE {where}"


def _user(mapped: MappedTable) -> str:
    """The id. A function around a column would hide it from its index."""
    return "r_user" if mapped.columns[USER] == "String" else "toString(r_user)"


def _type(mapped: MappedTable) -> str:
    if TYPE not in mapped.columns:
        return f"toUInt8({int(EventType.CUSTOM)})"
    numbers = uint64s(int(each) for each in EventType)
    return f"toUInt8(transform(toString(r_type), {texts(each.name for each in EventType)}, {numbers}, 0))"


def _is_valid(mapped: MappedTable) -> str:
    time = _instant(mapped.columns["time"], "r_time")
    named = [
        f"(notEmpty({each}) AND length({each}) <= {NAME_BYTES_MAX} AND isValidUTF8({each}))"
        for each in ("r_user", "r_name")
    ]
    in_time = f"({time} >= {int64(TIME_MIN_MICROS)} AND {time} <= {int64(TIME_MAX_MICROS)})"
    return all_of([*named, in_time, f"{_type(mapped)} != 0" if TYPE in mapped.columns else TRUE])


def rows(view: View, mapped: MappedTable, users: Sequence[str] | None = None) -> str:
    """The rows that count, in columns as in `events`: all of them, or those of some users."""
    where = all_of([complete(mapped), within(mapped, mapped.reach), among(view, mapped, users)])
    mark = mark_number(mapped, "r_mark")
    owner, source = _user(mapped), f"({_picked(mapped, where)})"
    conditions = [_is_valid(mapped)]
    if mapped.has_ids:
        owner = f"if(i_owner = '', {_user(mapped)}, i_owner)"
        source += f" AS r LEFT ANY JOIN ({_ids(view, mapped)}) AS i ON {_user(mapped)} = i.i_user"
        conditions.append(f"{mark} >= toInt64(i_since)")
    conditions += [f"NOT ({_is_removed(mapped, before, reach)})" for before, reach in mapped.removals]
    columns = {
        "user": owner,
        "p": _partition("user"),
        "name": "r_name",
        "time": _instant(mapped.columns["time"], "r_time"),
        "input": text(mapped.input),
        "type": _type(mapped),
        "seq": f"(toUInt64({_FIRST_SEQ}) + toUInt64({mark}))",
        **dict(_attributes(mapped)),
    }
    listed = ", ".join(f"{expression} AS {column}" for column, expression in columns.items())
    return f"SELECT {listed} FROM {source} WHERE {all_of([*conditions, OF_SHARD])}"


def _attributes(mapped: MappedTable) -> Iterator[tuple[str, str]]:
    """The maps of `events`."""
    for column, kind in ATTRIBUTES.items():
        own = VALUE_COLUMNS[kind]
        if column not in mapped.columns:
            yield own, f"CAST(map(), '{_MAP_TYPES[kind]}')"
            continue
        value = f"r_{column}"
        if kind is Kind.NUMBER:
            value = f"mapFilter((k, v) -> isFinite(v), {value})"
        elif kind is Kind.TIME:
            inner = mapped.columns[column].partition(", ")[2].removesuffix(")")
            value = f"mapApply((k, v) -> (k, {_instant(inner, 'v')}), {value})"
        yield own, f"CAST({value}, '{_MAP_TYPES[kind]}')"


def _is_removed(mapped: MappedTable, before: Micros, reach: Reach) -> str:
    mark = mark_number(mapped, "r_mark")
    time = _instant(mapped.columns["time"], "r_time")
    if reach.is_whole:
        is_within = f"{mark} <= {int64(reach.mark)}"
    else:
        at = f"{mark} = {int64(reach.mark)} AND {_partition('r_user')} <= {reach.partition}"
        is_within = f"({mark} < {int64(reach.mark)} OR {at})"
    return f"{time} < {int64(before)} AND {is_within}"


def _ids(view: View, mapped: MappedTable) -> str:
    """What ids mean at the view's revision. Marks only rise, so the highest is the latest."""
    return (
        f"SELECT user AS i_user, argMax(owner, rev) AS i_owner, max(since) AS i_since FROM {IDS}"
        f" WHERE {_of_source(view, mapped)} GROUP BY user"
    )


def _of_source(view: View, mapped: MappedTable) -> str:
    return f"account = {text(view.account)} AND source = {mapped.source} AND rev <= {view.revision}"


def among(view: View, mapped: MappedTable, users: Sequence[str] | None) -> str:
    """The condition on their rows whose ids may mean some users, which their primary key may serve."""
    if users is None:
        return TRUE
    own = one_of("user", users)
    if not mapped.has_ids:
        return own
    others = f"SELECT user FROM {IDS} WHERE {_of_source(view, mapped)} AND {one_of('owner', users)}"
    return any_of([own, f"user IN ({others})"])


# --- both ---------------------------------------------------------------------------------------------------


def of_inputs(view: View, inputs: Collection[str]) -> View:
    """The view, with those tables of others alone that have events of some inputs."""
    mapped = tuple(each for each in view.mapped if each.input in inputs)
    return msgspec.structs.replace(view, mapped=mapped)


def from_events(view: View, counted: str, where: str, users: Sequence[str] | None = None) -> str:
    """`FROM` and `WHERE` of a statement over the events of an account under a condition. `counted` is the
    condition on rows of `events` that count, `users` those that the condition allows at most.
    """
    if not view.mapped:
        return f"FROM {EVENTS} WHERE {all_of([counted, where])}"
    columns = ", ".join(column for column in COLUMNS[EVENTS] if column not in ("account", "rev"))
    queries = [f"SELECT {columns} FROM {EVENTS} WHERE {all_of([counted, where])}"]
    queries += [f"SELECT {columns} FROM ({rows(view, each, users)}) WHERE {where}" for each in view.mapped]
    return f"FROM ({' UNION ALL '.join(queries)})"
