"""Simplifies conditions on one event.

all_of[all_of[a, b], c] → all_of[a, b, c]       not(not(a))            → a
all_of[a, a]            → a                     all_of[not(a), not(b)] → not(any_of[a, b])
any_of[a, everything]   → everything            in no values           → nothing
"""

from __future__ import annotations

import msgspec

from engine.criteria.conditions import WhereAll, WhereAny, WhereNot
from engine.criteria.operators import ResolvedTest, kinds_passing
from engine.plan.model import (
    EventMatch,
    EventSelection,
    Plan,
    RowFilter,
    SequenceMatch,
    Step,
)
from engine.plan.passes.rewrite import Draft, has, rewrite
from engine.plan.statistics import Statistics

EVERY_EVENT: RowFilter = WhereAll(conditions=())
NO_EVENT: RowFilter = WhereAny(conditions=())

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def simplify_rows(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with every row filter in its smallest form; None when every row passes."""
    return rewrite(plan, _simplify_step) if has(plan, (EventMatch, SequenceMatch)) else plan


def _simplify_step(draft: Draft, step: Step) -> int:
    match step:
        case EventMatch() if step.selection.where is not None:
            return draft.add(msgspec.structs.replace(step, selection=_simplify_selection(step.selection)))
        case SequenceMatch():
            steps = tuple(map(_simplify_selection, step.steps))
            return draft.add(msgspec.structs.replace(step, steps=steps))
        case _:
            return draft.add(step)


def _simplify_selection(selection: EventSelection) -> EventSelection:
    if selection.where is None:
        return selection
    where = simplify(selection.where)
    return msgspec.structs.replace(selection, where=None if _is_every_event(where) else where)


def simplify(where: RowFilter) -> RowFilter:
    """The smallest form of a row filter that lets the same rows pass."""
    match where:
        case WhereAll() | WhereAny():
            return _group(where, [simplify(condition) for condition in where.conditions])
        case WhereNot():
            return _negated(simplify(where.condition))
        case _:
            return where if kinds_passing(where.test) else NO_EVENT


def _negated(where: RowFilter) -> RowFilter:
    if _is_every_event(where):
        return NO_EVENT
    if _is_no_event(where):
        return EVERY_EVENT
    return where.condition if isinstance(where, WhereNot) else WhereNot(condition=where)


def _group(
    group: WhereAll[str, ResolvedTest] | WhereAny[str, ResolvedTest], conditions: list[RowFilter]
) -> RowFilter:
    of_all = isinstance(group, WhereAll)
    decided, neutral = (_is_no_event, _is_every_event) if of_all else (_is_every_event, _is_no_event)
    if any(map(decided, conditions)):
        return NO_EVENT if of_all else EVERY_EVENT
    flat = [
        part
        for condition in conditions
        for part in (condition.conditions if isinstance(condition, type(group)) else (condition,))
        if not neutral(part)
    ]
    distinct = list({_encoder.encode(part): part for part in flat}.values())
    return _combined(of_all, distinct)


def _combined(of_all: bool, conditions: list[RowFilter]) -> RowFilter:
    if len(conditions) == 1:
        return conditions[0]
    negated = [part.condition for part in conditions if isinstance(part, WhereNot)]
    if len(negated) < 2:
        return (WhereAll if of_all else WhereAny)(conditions=tuple(conditions))
    # De Morgan: one negation instead of two or more.
    rest = [part for part in conditions if not isinstance(part, WhereNot)]
    merged = WhereNot(condition=simplify((WhereAny if of_all else WhereAll)(conditions=tuple(negated))))
    return _combined(of_all, [*rest, merged])


def _is_every_event(where: RowFilter) -> bool:
    return isinstance(where, WhereAll) and not where.conditions


def _is_no_event(where: RowFilter) -> bool:
    return isinstance(where, WhereAny) and not where.conditions
