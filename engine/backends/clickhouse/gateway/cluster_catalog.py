"""The catalog of a cluster's rows (`engine.backends.base.CatalogReader`).

Each question is one statement on each shard. Shards have different users, so numbers of users and events add
up, and the first entries of all shards together are among the first ones of each.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import Any

from engine.backends.base import (
    AttributeFacts,
    AttributePlace,
    EventNameFacts,
    EventPlace,
    ValueCount,
)
from engine.backends.clickhouse.gateway.cluster_lookups import ClusterLookups
from engine.backends.clickhouse.gateway.profiles import value_of
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.events import ARRIVAL_ORDER
from engine.backends.clickhouse.query.literals import TRUE, all_of, text
from engine.backends.clickhouse.query.mapped import from_events, of_inputs
from engine.backends.clickhouse.tables import EVENTS, FACTS, UNSET, VALUE_COLUMNS
from engine.backends.clickhouse.view import View
from engine.criteria.model import EventType
from engine.deadline import check_deadline
from engine.errors import LimitExceeded
from engine.values import Kind, Micros, Value, kind_of

VALUES_MAX = 1_000_000
"""Different values of an attribute on one shard."""

_Key = tuple[str, ...]
_Row = tuple[Any, ...]


class ClusterCatalog(ClusterLookups):
    """Lists what data came with."""

    def event_names(
        self,
        account: str,
        *,
        input: str = "",
        prefix: str = "",
        after: EventPlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[EventNameFacts, ...]:
        """Event names in order of name, input and type."""
        with self._viewed(account, deadline) as (people, view):
            if people is None:
                return ()
            place = "(toString(name), toString(input), type)"
            later = TRUE if after is None else f"{place} > ({text(after[0])}, {text(after[1])}, {after[2]})"
            view = of_inputs(view, (input,)) if input else view
            events_of = _events(view, input, all_of([_begins("name", prefix), later]))
            statement = (
                f"SELECT {place} AS place, count(), uniqExact(user), min(time), max(time) {events_of}"
                f" GROUP BY place ORDER BY place LIMIT {limit}"
            )
            found: dict[EventPlace, list[int]] = {}
            rows = self._rows_of(statement, deadline, view)
            for (name, through, type_), events, users, first, last in rows:
                at = found.setdefault((name, through, type_), [0, 0, first, last])
                at[:] = [at[0] + events, at[1] + users, min(at[2], first), max(at[3], last)]
        return tuple(
            EventNameFacts(
                name=name,
                input=through,
                type=EventType(type_),
                events=events,
                users=users,
                first_time=first,
                last_time=last,
            )
            for (name, through, type_), (events, users, first, last) in sorted(found.items())[:limit]
        )

    def user_attributes(
        self,
        account: str,
        *,
        workspace: str = "",
        prefix: str = "",
        after: AttributePlace | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of users in order of key and workspace."""
        with self._viewed(account, deadline) as (people, view):
            if people is None:
                return ()
            own = f"place = {text(workspace)}" if workspace else "NOT startsWith(place, '#')"
            at = "(toString(key), toString(place))"
            later = TRUE if after is None else f"{at} > ({text(after[0])}, {text(after[1])})"
            where = all_of([counted(view, FACTS), own, _begins("key", prefix), later])
            latest = (
                f"SELECT {at} AS at, argMax((kind, time), {ARRIVAL_ORDER}) AS latest FROM {FACTS}"
                f" WHERE {where} GROUP BY at, user HAVING latest.1 != {UNSET}"
            )
            statement = (
                f"SELECT at, count(), groupUniqArray(latest.1), min(latest.2), max(latest.2) FROM ({latest})"
                f" GROUP BY at ORDER BY at LIMIT {limit}"
            )
            rows = _joined(
                (tuple(at), users, kinds, first, last)
                for at, users, kinds, first, last in self._rows_of(statement, deadline)
            )
        return tuple(
            AttributeFacts(
                key=key, workspace=place, kinds=kinds, users=users, first_time=first, last_time=last
            )
            for (key, place), users, kinds, first, last in rows[:limit]
        )

    def event_attributes(
        self,
        account: str,
        event_name: str,
        *,
        input: str = "",
        prefix: str = "",
        after: str | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[AttributeFacts, ...]:
        """Attributes of the events of a name in order of key."""
        with self._viewed(account, deadline) as (people, view):
            if people is None:
                return ()
            keys = ", ".join(
                f"arrayMap(k -> (toString(k), toUInt8({int(kind)})), mapKeys({column}))"
                for kind, column in VALUE_COLUMNS.items()
            )
            view = of_inputs(view, (input,)) if input else view
            carried = (
                f"SELECT time, arrayJoin(arrayConcat({keys})) AS carried"
                f" {_events(view, input, f'name = {text(event_name)}')}"
            )
            later = TRUE if after is None else f"carried.1 > {text(after)}"
            where = all_of([_begins("carried.1", prefix), later])
            statement = (
                f"SELECT carried.1 AS key, groupUniqArray(carried.2), min(time), max(time) FROM ({carried})"
                f" WHERE {where} GROUP BY key ORDER BY key LIMIT {limit}"
            )
            rows = _joined(
                ((key,), 0, kinds, first, last)
                for key, kinds, first, last in self._rows_of(statement, deadline, view)
            )
        return tuple(
            AttributeFacts(key=key, event_name=event_name, kinds=kinds, first_time=first, last_time=last)
            for (key,), _, kinds, first, last in rows[:limit]
        )

    def attribute_values(
        self,
        account: str,
        workspace: str,
        key: str,
        *,
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of a user attribute, most users first."""
        with self._viewed(account, deadline) as (people, view):
            if people is None:
                return ()
            where = all_of([counted(view, FACTS), f"place = {text(workspace)}", f"key = {text(key)}"])
            latest = (
                f"SELECT argMax((kind, number, string, whole, list), {ARRIVAL_ORDER}) AS cell FROM {FACTS}"
                f" WHERE {where} GROUP BY user HAVING cell.1 != {UNSET}"
            )
            elements = f"arrayMap(x -> {_cell(Kind.STRING, string='x')}, arrayDistinct(cell.5))"
            alone = "[(cell.1, cell.2 + toFloat64(0), cell.3, cell.4)]"
            values = (
                f"SELECT arrayJoin(if(cell.1 = {int(Kind.LIST)}, {elements}, {alone})) AS v FROM ({latest})"
            )
            counts = self._counted(values, prefix, deadline)
        return _page((ValueCount(value, users=count) for value, count in counts), after, limit)

    def event_attribute_values(
        self,
        account: str,
        event_name: str,
        key: str,
        *,
        input: str = "",
        prefix: str = "",
        after: ValueCount | None = None,
        limit: int,
        deadline: float | None = None,
    ) -> tuple[ValueCount, ...]:
        """The values of an event attribute, most events first."""
        with self._viewed(account, deadline) as (people, view):
            if people is None:
                return ()
            name = text(key)
            cells = [
                f"if(mapContains(strings, {name}), [{_cell(Kind.STRING, string=f'strings[{name}]')}], [])",
                f"if(mapContains(numbers, {name}), [{_cell(Kind.NUMBER, number=f'numbers[{name}]')}], [])",
                f"if(mapContains(bools, {name}), [{_cell(Kind.BOOL, whole=f'bools[{name}]')}], [])",
                f"if(mapContains(times, {name}), [{_cell(Kind.TIME, whole=f'times[{name}]')}], [])",
                f"arrayMap(x -> {_cell(Kind.STRING, string='x')}, arrayDistinct(lists[{name}]))",
            ]
            view = of_inputs(view, (input,)) if input else view
            values = (
                f"SELECT arrayJoin(arrayConcat({', '.join(cells)})) AS v"
                f" {_events(view, input, f'name = {text(event_name)}')}"
            )
            counts = self._counted(values, prefix, deadline, view)
        return _page((ValueCount(value, events=count) for value, count in counts), after, limit)

    def _counted(
        self, values: str, prefix: str, deadline: float | None, view: View | None = None
    ) -> list[tuple[Value, int]]:
        """How often each value occurs in the rows of a statement, whose column `v` has its cell. `view`: the
        one whose events it reads.
        """
        wanted = all_of([f"v.1 = {int(Kind.STRING)}", _begins("v.3", prefix)]) if prefix else TRUE
        statement = f"SELECT v, count() FROM ({values}) WHERE {wanted} GROUP BY v LIMIT {VALUES_MAX + 1}"
        found: dict[_Row, int] = {}
        check_deadline(deadline)
        mapped = () if view is None else view.mapped
        for rows in self._cluster.read(statement, deadline=deadline, mapped=mapped):
            if len(rows) > VALUES_MAX:
                raise LimitExceeded(f"the attribute has more than {VALUES_MAX} values on a shard")
            for cell, count in rows:
                found[tuple(cell)] = found.get(tuple(cell), 0) + count
        counts = []
        for (kind, number, string, whole), count in found.items():
            value = value_of(kind, number, string, whole, ())
            assert value is not None
            counts.append((value, count))
        return counts

    def _rows_of(self, statement: str, deadline: float | None, view: View | None = None) -> Iterator[_Row]:
        """The rows of all shards. `view`: the one whose events the statement reads."""
        check_deadline(deadline)
        mapped = () if view is None else view.mapped
        for rows in self._cluster.read(statement, deadline=deadline, mapped=mapped):
            yield from map(tuple, rows)


def _cell(kind: Kind, *, number: str = "0", string: str = "''", whole: str = "0") -> str:
    """A value as a tuple. Of 0 and -0, which are the same number, it has 0."""
    return f"(toUInt8({int(kind)}), toFloat64({number}) + toFloat64(0), toString({string}), toInt64({whole}))"


def _events(view: View, input: str, where: str) -> str:
    """`FROM` and `WHERE` for the events through an input, or ("") any, under a condition."""
    through = f"input = {text(input)}" if input else TRUE
    return from_events(view, counted(view, EVENTS), all_of([through, where]))


def _begins(expression: str, prefix: str) -> str:
    return f"startsWith({expression}, {text(prefix)})" if prefix else TRUE


_Facts = tuple[_Key, int, tuple[Kind, ...], Micros, Micros]


def _joined(rows: Iterable[tuple[_Key, int, Iterable[int], Micros, Micros]]) -> list[_Facts]:
    """Facts about keys from all shards, in order."""
    found: dict[_Key, tuple[int, set[int], Micros, Micros]] = {}
    for key, users, kinds, first, last in rows:
        before, known, since, until = found.get(key, (0, set(), first, last))
        found[key] = before + users, known.union(kinds), min(since, first), max(until, last)
    return [
        (key, users, tuple(map(Kind, sorted(kinds))), first, last)
        for key, (users, kinds, first, last) in sorted(found.items())
    ]


def _rank(count: ValueCount) -> tuple[int, int, Any]:
    value: Any = count.value
    return -(count.users or count.events), int(kind_of(value)), value + 0.0 if type(value) is float else value


def _page(counts: Iterable[ValueCount], after: ValueCount | None, limit: int) -> tuple[ValueCount, ...]:
    """The first values in order, after one of them."""
    if after is not None:
        start = _rank(after)
        counts = (count for count in counts if _rank(count) > start)
    return tuple(heapq.nsmallest(limit, counts, key=_rank))
