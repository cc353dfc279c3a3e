"""Absorption: removes operands that change nothing, as far as the form of the steps shows it.

    Intersection(a, a)                → a        Intersection(a, Union(a, b))      → a
    Union(a, Intersection(a, b))      → a        Intersection(Universe, event)     → event
    Intersection(a, Difference(u, a)) → Empty    Union(a, Difference(u, a))        → Union(a, u)
    Difference(a, Union(a, b))        → Empty    Difference(a, Intersection(a, b)) → Difference(a, b)
    Difference(Difference(u, a), a)   → Difference(u, a)

A set that other steps still need is computed anyway; here it is only no longer read twice.
"""

from __future__ import annotations

from engine.plan.model import Difference, Intersection, Plan, Step, Union
from engine.plan.passes.relations import OPERANDS_MAX, Relations
from engine.plan.passes.rewrite import Draft, rewrite, unique
from engine.plan.statistics import Statistics


def absorb(plan: Plan, statistics: Statistics) -> Plan:
    """The plan without operands that another operand makes redundant."""
    if len(plan.steps) == 1:
        return plan
    known: list[Relations] = []

    def rule(draft: Draft, step: Step) -> int:
        if not known:
            known.append(Relations(draft.steps))
        match step:
            case Intersection():
                return _intersection(draft, known[0], unique(step.operands))
            case Union():
                return _union(draft, known[0], unique(step.operands))
            case Difference():
                return _difference(draft, known[0], step)
            case _:
                return draft.add(step)

    return rewrite(plan, rule)


def _intersection(draft: Draft, relations: Relations, operands: list[int]) -> int:
    if len(operands) > OPERANDS_MAX:
        return draft.intersection(operands)
    if any(relations.apart(one, other) for one in operands for other in operands if one < other):
        return draft.empty()
    kept = list(operands)
    for operand in operands:
        if any(other != operand and relations.inside(other, operand) for other in kept):
            kept.remove(operand)
    return draft.intersection(kept)


def _union(draft: Draft, relations: Relations, operands: list[int]) -> int:
    if len(operands) > OPERANDS_MAX:
        return draft.union(operands)
    operands = unique(_without(draft, operand, operands) for operand in operands)
    kept = list(operands)
    for operand in operands:
        if any(other != operand and relations.inside(operand, other) for other in kept):
            kept.remove(operand)
    return draft.union(kept)


def _without(draft: Draft, operand: int, beside: list[int]) -> int:
    """Replaces `Difference(u, a)` by `u` when `a` is another operand."""
    step = draft.steps[operand]
    return step.minuend if isinstance(step, Difference) and step.subtrahend in beside else operand


def _difference(draft: Draft, relations: Relations, step: Difference) -> int:
    if relations.inside(step.minuend, step.subtrahend):
        return draft.empty()
    if relations.apart(step.minuend, step.subtrahend):
        return step.minuend
    inner = draft.steps[step.subtrahend]
    if isinstance(inner, Intersection):
        kept = [operand for operand in inner.operands if not relations.inside(step.minuend, operand)]
        if kept and len(kept) < len(inner.operands):
            return draft.difference(step.minuend, draft.intersection(kept))
    return draft.add(step)
