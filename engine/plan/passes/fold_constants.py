"""Constant folding: removes predicates that no data can satisfy, and operations on the empty set.

Intersection(a, Empty) → Empty        Union(a, Empty)      → a
Difference(a, Empty)   → a            Difference(Empty, a) → Empty
Universe(no inputs), EventMatch(empty window), AttributeMatch(in no values) … → Empty
"""

from __future__ import annotations

from engine.criteria.conditions import WhereAny
from engine.criteria.operators import kinds_passing
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersection,
    Plan,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def fold_constants(plan: Plan, statistics: Statistics) -> Plan:
    """The plan without steps whose set is known to be empty, except for roots."""
    return rewrite(plan, _fold) if any(map(_folds, plan.steps)) else plan


def _folds(step: Step) -> bool:
    """Whether the step is empty, or becomes another one on its own."""
    match step:
        case Empty():
            return True
        case Difference():
            return step.minuend == step.subtrahend
        case Intersection() | Union():
            return not step.operands
        case _:
            return is_impossible(step)


def _fold(draft: Draft, step: Step) -> int:
    match step:
        case Intersection():
            if any(_is_empty(draft, operand) for operand in step.operands):
                return draft.empty()
        case Union():
            return draft.union([operand for operand in step.operands if not _is_empty(draft, operand)])
        case Difference():
            if step.minuend == step.subtrahend:
                return draft.empty()
            if _is_empty(draft, step.minuend) or _is_empty(draft, step.subtrahend):
                return step.minuend
        case _:
            if is_impossible(step):
                return draft.empty()
    return draft.add(step)


def _is_empty(draft: Draft, index: int) -> bool:
    return isinstance(draft.steps[index], Empty)


def is_impossible(step: Step) -> bool:
    """Whether the set of this step is always empty."""
    match step:
        case Universe():
            return not step.inputs
        case AttributeMatch():
            return not step.workspaces or not kinds_passing(step.test)
        case IdentityMatch() | UserIdMatch():
            return not kinds_passing(step.test)
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
