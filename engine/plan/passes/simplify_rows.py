"""Conditions on one event, made as small as their meaning allows.

all_of[all_of[a, b], c] → all_of[a, b, c]       not(not(a))            → a
all_of[a, a]            → a                     all_of[not(a), not(b)] → not(any_of[a, b])
any_of[a, everything]   → everything            in no values           → nothing
"""

from __future__ import annotations

import msgspec

from engine.criteria.operators import matcher_of
from engine.plan.model import (
    EventMatch,
    EventSelection,
    Plan,
    RowFilter,
    RowsAll,
    RowsAny,
    RowsNot,
    SequenceMatch,
    Step,
)
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.passes.statistics import Statistics

EVERY_ROW = RowsAll(conditions=())
NO_ROW = RowsAny(conditions=())

_encoder = msgspec.msgpack.Encoder(order="deterministic")


def simplify_rows(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with every row filter in its smallest form; None where every row passes."""
    return rewrite(plan, _simplify_step)


def _simplify_step(draft: Draft, step: Step) -> int:
    match step:
        case EventMatch():
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
    return msgspec.structs.replace(selection, where=None if _is_every_row(where) else where)


def simplify(where: RowFilter) -> RowFilter:
    """The smallest form of a row filter that lets the same rows pass."""
    match where:
        case RowsAll() | RowsAny():
            return _group(where, [simplify(condition) for condition in where.conditions])
        case RowsNot():
            return _negated(simplify(where.condition))
        case _:
            return where if matcher_of(where.test).kinds else NO_ROW


def _negated(where: RowFilter) -> RowFilter:
    if _is_every_row(where):
        return NO_ROW
    if _is_no_row(where):
        return EVERY_ROW
    return where.condition if isinstance(where, RowsNot) else RowsNot(condition=where)


def _group(group: RowsAll | RowsAny, conditions: list[RowFilter]) -> RowFilter:
    of_all = isinstance(group, RowsAll)
    decided, neutral = (_is_no_row, _is_every_row) if of_all else (_is_every_row, _is_no_row)
    if any(map(decided, conditions)):
        return NO_ROW if of_all else EVERY_ROW
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
    negated = [part.condition for part in conditions if isinstance(part, RowsNot)]
    if len(negated) < 2:
        return (RowsAll if of_all else RowsAny)(conditions=tuple(conditions))
    # De Morgan: one negation in the place of two or more.
    rest = [part for part in conditions if not isinstance(part, RowsNot)]
    merged = RowsNot(condition=simplify((RowsAny if of_all else RowsAll)(conditions=tuple(negated))))
    return _combined(of_all, [*rest, merged])


def _is_every_row(where: RowFilter) -> bool:
    return isinstance(where, RowsAll) and not where.conditions


def _is_no_row(where: RowFilter) -> bool:
    return isinstance(where, RowsAny) and not where.conditions
