"""Lookups in a cluster's rows (`engine.backends.base.LookupReader`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from engine.backends.base import (
    AttributeLookup,
    ConsentLookup,
    EventLookup,
    Found,
    FoundText,
    IdentityLookup,
    Lookup,
    TextLookup,
    UserLookup,
)
from engine.backends.base.lookups import NAMES_LISTED_MAX, TEXTS_LOOKED_AT_MAX
from engine.backends.clickhouse.gateway.cluster_people import ClusterPeople
from engine.backends.clickhouse.gateway.open_cluster import OpenCluster
from engine.backends.clickhouse.mapped import MappedTable
from engine.backends.clickhouse.query.compiler import counted
from engine.backends.clickhouse.query.events import ARRIVAL_ORDER
from engine.backends.clickhouse.query.literals import TRUE, all_of, one_of, text
from engine.backends.clickhouse.query.mapped import from_events, of_inputs
from engine.backends.clickhouse.tables import (
    CONSENT,
    EVENTS,
    FACTS,
    IDENTITY,
    SEEN,
    UNSET,
    VALUE_COLUMNS,
    consent_key,
)
from engine.backends.clickhouse.view import View
from engine.values import Kind

ROWS_LISTED_MAX = 1_000_000
"""Rows of a server that are read for a list of names."""


class ClusterLookups(OpenCluster):
    """Looks up whether data are there."""

    def look_up(self, account: str, lookups: Sequence[Lookup]) -> tuple[Found, ...]:
        """What is there, each by one statement."""
        with self._viewed(account) as (people, view):
            if people is None:
                return (Found(is_there=False),) * len(lookups)
            return tuple(self._found(people, view, lookup) for lookup in lookups)

    def _found(self, people: ClusterPeople, view: View, lookup: Lookup) -> Found:
        mapped: Sequence[MappedTable] = ()
        match lookup:
            case UserLookup():
                return Found(self._have_both(people, lookup))
            case EventLookup():
                view = of_inputs(view, lookup.inputs)
                mapped = view.mapped
                if not lookup.key:
                    any_event = self._cluster.read(f"SELECT 1 {_events(view, lookup)} LIMIT 1", mapped=mapped)
                    return Found(any(len(rows) > 0 for rows in any_event))
                kinds = _kinds_of_events(view, lookup)
            case _:
                kinds = f"SELECT DISTINCT kind FROM ({_latest(view, lookup)})"
        found = frozenset(Kind(kind) for rows in self._cluster.read(kinds, mapped=mapped) for (kind,) in rows)
        return Found(bool(found), found)

    def _have_both(self, people: ClusterPeople, lookup: UserLookup) -> bool:
        """Whether a user belongs to one of the inputs and to one of the others."""
        with self._locked():
            numbers = people.inputs.numbers
            inputs = [numbers[name] for name in lookup.inputs if name in numbers]
            others = [numbers[name] for name in lookup.others if name in numbers]
            seen = people.seen
            return any(
                seen.has_any(others, group, seen.users(inputs, group)) for group in range(people.groups)
            )

    def find_text(self, account: str, lookup: TextLookup, fits: Callable[[str], bool]) -> FoundText:
        """Whether a string fits, among the first ones in order."""
        with self._viewed(account) as (people, view):
            if people is None:
                return FoundText(fits=False, is_complete=True)
            mapped: Sequence[MappedTable] = ()
            if isinstance(lookup, EventLookup):
                key = text(lookup.key)
                alone = f"if(mapContains(strings, {key}), [toString(strings[{key}])], [])"
                view = of_inputs(view, lookup.inputs)
                mapped = view.mapped
                texts = f"SELECT arrayJoin(arrayConcat({alone}, lists[{key}])) AS x {_events(view, lookup)}"
            else:
                alone = f"if(kind = {int(Kind.STRING)}, [string], [])"
                texts = f"SELECT arrayJoin(arrayConcat({alone}, list)) AS x FROM ({_latest(view, lookup)})"
            limit = TEXTS_LOOKED_AT_MAX + 1
            statement = f"SELECT DISTINCT x FROM ({texts}) ORDER BY x LIMIT {limit}"
            found = sorted({x for rows in self._cluster.read(statement, mapped=mapped) for (x,) in rows})
        some = found[:TEXTS_LOOKED_AT_MAX]
        return FoundText(any(map(fits, some)), is_complete=len(found) <= TEXTS_LOOKED_AT_MAX)

    def names_beside(self, account: str, lookup: TextLookup) -> tuple[str, ...]:
        """Names that could have been meant, among the first rows that a server finds."""
        with self._viewed(account) as (people, view):
            if people is None:
                return ()
            mapped: Sequence[MappedTable] = ()
            if isinstance(lookup, EventLookup):
                view = of_inputs(view, lookup.inputs)
                mapped = view.mapped
                keys = [f"mapKeys({column})" for column in VALUE_COLUMNS.values()]
                names = f"arrayJoin(arrayConcat({', '.join(keys)}))" if lookup.key else "name"
                rows = _events(view, msgspec.structs.replace(lookup, name=lookup.name if lookup.key else ""))
            else:
                names = "key"
                places = lookup.workspaces if isinstance(lookup, AttributeLookup) else (IDENTITY,)
                rows = f"FROM {FACTS} WHERE {all_of([counted(view, FACTS), one_of('place', places)])}"
            statement = (
                f"SELECT DISTINCT x FROM (SELECT {names} AS x {rows} LIMIT {ROWS_LISTED_MAX})"
                f" LIMIT {NAMES_LISTED_MAX}"
            )
            found = {x for rows in self._cluster.read(statement, mapped=mapped) for (x,) in rows}
        return tuple(found)[:NAMES_LISTED_MAX]


def _events(view: View, lookup: EventLookup) -> str:
    """`FROM` and `WHERE` for the events that are looked for."""
    where = all_of(
        [
            one_of("input", lookup.inputs),
            f"name = {text(lookup.name)}" if lookup.name else TRUE,
            TRUE if lookup.type is None else f"type = {int(lookup.type)}",
        ]
    )
    return from_events(view, counted(view, EVENTS), where)


def _kinds_of_events(view: View, lookup: EventLookup) -> str:
    key = text(lookup.key)
    kinds = ", ".join(
        f"if(mapContains({column}, {key}), [toUInt8({int(kind)})], [])"
        for kind, column in VALUE_COLUMNS.items()
    )
    return f"SELECT DISTINCT arrayJoin(arrayConcat({kinds})) {_events(view, lookup)}"


def _latest(view: View, lookup: AttributeLookup | IdentityLookup | ConsentLookup) -> str:
    """The values of the users of some inputs."""
    places: Iterable[str]
    match lookup:
        case AttributeLookup():
            places, key = lookup.workspaces, lookup.key
        case IdentityLookup():
            places, key = (IDENTITY,), lookup.type
        case ConsentLookup():
            places, key = (CONSENT,), consent_key(lookup.regulation, lookup.purpose)
    through = all_of([counted(view, SEEN), one_of("input", lookup.inputs)])
    where = all_of([counted(view, FACTS), one_of("place", places), f"key = {text(key)}"])
    cells = (
        f"SELECT argMax((kind, string, list), {ARRIVAL_ORDER}) AS cell FROM {FACTS}"
        f" WHERE {where} AND user IN (SELECT user FROM {SEEN} WHERE {through})"
        f" GROUP BY place, user HAVING cell.1 != {UNSET}"
    )
    return f"SELECT cell.1 AS kind, cell.2 AS string, cell.3 AS list FROM ({cells})"
