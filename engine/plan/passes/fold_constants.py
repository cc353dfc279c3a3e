"""Constant folding: predicates that no data can satisfy, and set operations on no one, disappear.

Intersect(a, Nobody)   → Nobody        Unite(a, Nobody)   → a
Subtract(a, Nobody)    → a             Subtract(Nobody, a) → Nobody
Universe(no inputs), EventMatch(empty window), AttributeMatch(in no values) … → Nobody
"""

from __future__ import annotations

from engine.criteria.conditions import WhereAny
from engine.criteria.operators import matcher_of
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersect,
    Nobody,
    Plan,
    SeenMatch,
    SequenceMatch,
    Step,
    Subtract,
    Unite,
    Universe,
)
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def fold_constants(plan: Plan, statistics: Statistics) -> Plan:
    """The plan without steps whose set is known to be empty, as far as no root asks for one."""
    return rewrite(plan, _fold)


def _fold(draft: Draft, step: Step) -> int:
    match step:
        case Intersect():
            if any(_is_nobody(draft, operand) for operand in step.operands):
                return draft.nobody()
        case Unite():
            return draft.unite([operand for operand in step.operands if not _is_nobody(draft, operand)])
        case Subtract():
            if step.minuend == step.subtrahend:
                return draft.nobody()
            if _is_nobody(draft, step.minuend) or _is_nobody(draft, step.subtrahend):
                return step.minuend
        case _:
            if is_impossible(step):
                return draft.nobody()
    return draft.add(step)


def _is_nobody(draft: Draft, index: int) -> bool:
    return isinstance(draft.steps[index], Nobody)


def is_impossible(step: Step) -> bool:
    """No user can ever be in the set of this leaf."""
    match step:
        case Universe():
            return not step.inputs
        case AttributeMatch():
            return not step.workspaces or not matcher_of(step.test).kinds
        case IdentityMatch():
            return not matcher_of(step.test).kinds
        case SeenMatch():
            return not step.inputs or not step.test.ranges
        case EventMatch():
            return not step.intervals or _selects_nothing(step.selection)
        case SequenceMatch():
            return any(map(_selects_nothing, step.steps))
        case BucketMatch():
            return step.first > step.last
        case _:
            return False


def _selects_nothing(selection: EventSelection) -> bool:
    where = selection.where
    no_row = isinstance(where, WhereAny) and not where.conditions
    return not selection.inputs or selection.time.is_empty or no_row
