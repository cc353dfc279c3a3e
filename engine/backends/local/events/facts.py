"""Figures and kinds of the tables, from part metadata without reading rows.

Only parts with tombstones are read. A checkpoint rewrites those sooner or later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from engine.backends.local.events.columns import DictionaryColumn
from engine.backends.local.events.frame import ColumnKey
from engine.backends.local.events.part import Part, TimeSpan
from engine.backends.local.events.table import Table
from engine.criteria.model import EventType
from engine.values import Kind, Micros, Value


class TableFacts(NamedTuple):
    """Events of one name, input and type: their number, their users, and the first and last time."""

    input_number: int
    type: EventType
    events: int
    users: int
    first_time: Micros
    last_time: Micros


def facts_of(tables: Iterable[Table]) -> list[TableFacts]:
    """Facts by input and type; those without events are left out. Call within a session."""
    found: dict[tuple[int, int], TableFacts] = {}
    for table in tables:
        facts = _facts(table)
        if facts is None:
            continue
        key = facts[:2]
        before = found.get(key)
        found[key] = facts if before is None else _together(before, facts)
    return list(found.values())


class Extent(NamedTuple):
    """Number of live rows, and their first and last time."""

    rows: int = 0
    first: Micros = 0
    last: Micros = 0


def extent_of(tables: Iterable[Table]) -> Extent:
    """Combined rows of tables. Call within a session."""
    parts = [part for table in tables for part in live_parts(table)]
    if not parts:
        return Extent()
    spans = [_live_span(part) for part in parts]
    return Extent(
        sum(map(_live_rows, parts)), min(first for first, _ in spans), max(last for _, last in spans)
    )


def _facts(table: Table) -> TableFacts | None:
    events, spans = 0, []
    for part in live_parts(table):
        events += _live_rows(part)
        spans.append(_live_span(part))
    if not spans:
        return None
    _, input_number, _, event_type, _ = table.key
    return TableFacts(
        input_number,
        EventType(event_type),
        events,
        table.user_count(),
        min(first for first, _ in spans),
        max(last for _, last in spans),
    )


def _together(one: TableFacts, other: TableFacts) -> TableFacts:
    """Combines two groups, which share no users."""
    return one._replace(
        events=one.events + other.events,
        users=one.users + other.users,
        first_time=min(one.first_time, other.first_time),
        last_time=max(one.last_time, other.last_time),
    )


def live_parts(table: Table) -> Iterable[Part]:
    """The parts that have live rows."""
    return (part for part in table.parts(None, None) if part.is_live)


def column_spans(tables: Iterable[Table]) -> dict[ColumnKey, TimeSpan]:
    """The columns in which a live row has a value, and the first and last time of such rows. Call within a
    session.
    """
    found: dict[ColumnKey, TimeSpan] = {}
    parts = [part for table in tables for part in live_parts(table)]
    # Parts with tombstones last: only columns that may widen the result are read.
    for part in sorted(parts, key=lambda part: part.has_tombstones):
        for tag, recorded in part.column_spans():
            known = found.get(tag)
            if known is not None and known.first <= recorded.first and recorded.last <= known.last:
                continue
            span = _live_column_span(part, tag) if part.has_tombstones else recorded
            if span is not None:
                found[tag] = span if known is None else known.joined(span)
    return found


def kinds_of(tables: Iterable[Table], attribute: int, enough: Collection[Kind]) -> set[Kind]:
    """The kinds of an attribute's values. Once one of `enough` is found, others may be left out. Call within
    a session.
    """
    found: set[Kind] = set()
    doubtful: list[tuple[Part, Kind]] = []
    for part in (part for table in tables for part in live_parts(table)):
        kinds = [kind for number, kind in part.record.columns if number == attribute]
        if part.has_tombstones:
            doubtful += [(part, kind) for kind in kinds]
        else:
            found.update(kinds)
        if not found.isdisjoint(enough):
            return found
    for part, kind in doubtful:
        if kind not in found and _live_column_span(part, (attribute, kind)) is not None:
            found.add(kind)
    return found


def texts_of(tables: Iterable[Table], attribute: int, parts_max: int) -> tuple[Iterator[str], bool]:
    """The strings of an attribute, alone or in lists, from the latest `parts_max` parts; and whether these
    are all parts. A string may come twice. Call within a session, and read within it.
    """
    kinds = (Kind.STRING, Kind.LIST)
    parts = [
        part
        for table in tables
        for part in live_parts(table)
        if any((attribute, kind) in part.record.columns for kind in kinds)
    ]
    parts.sort(key=lambda part: part.record.time_max, reverse=True)
    columns = ((part, part.column(attribute, kind)) for part in parts[:parts_max] for kind in kinds)
    values = (
        value
        for part, column in columns
        if isinstance(column, DictionaryColumn)
        for value in _live_entries(part, column)
    )
    texts = (text for value in values for text in (value if isinstance(value, tuple) else (str(value),)))
    return texts, len(parts) <= parts_max


def _live_entries(part: Part, column: DictionaryColumn) -> Iterable[Value]:
    """The distinct values of live rows."""
    live = part.live_rows()
    if live is None:
        return column.entries.values
    if column.positions is not None:
        live = live[column.positions]
    codes = np.unique(column.codes[live]).tolist()
    return (column.entries.values[code] for code in codes)


def _live_column_span(part: Part, tag: ColumnKey) -> TimeSpan | None:
    column, live, times = part.column(*tag), part.live_rows(), part.times()
    assert column is not None
    assert live is not None
    if column.positions is not None:
        live, times = live[column.positions], times[column.positions]
    times = times[live]
    return TimeSpan(int(times.min()), int(times.max())) if len(times) else None


def _live_rows(part: Part) -> int:
    live = part.live_rows()
    return part.record.rows if live is None else int(np.count_nonzero(live))


def _live_span(part: Part) -> tuple[Micros, Micros]:
    live = part.live_rows()
    if live is None:
        return part.record.time_min, part.record.time_max
    times = part.times()[live]
    return int(times.min()), int(times.max())
