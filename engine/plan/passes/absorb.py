"""Operands that change nothing disappear, as far as the form of the steps shows it.

    Intersect(a, a)                 → a            Intersect(a, Unite(a, b))     → a
    Unite(a, Intersect(a, b))       → a            Intersect(Universe, event)    → event
    Intersect(a, Subtract(u, a))    → Nobody       Unite(a, Subtract(u, a))      → Unite(a, u)
    Subtract(a, Unite(a, b))        → Nobody       Subtract(a, Intersect(a, b))  → Subtract(a, b)
    Subtract(Subtract(u, a), a)     → Subtract(u, a)

A set that other steps still need is computed anyway; here it only stops being looked at twice.
"""

from __future__ import annotations

from engine.plan.model import Intersect, Plan, Step, Subtract, Unite
from engine.plan.passes.relations import OPERANDS_MAX, Relations
from engine.plan.passes.rewrite import Draft, rewrite, unique
from engine.plan.statistics import Statistics


def absorb(plan: Plan, statistics: Statistics) -> Plan:
    """The plan without operands that another operand makes redundant."""
    known: list[Relations] = []

    def rule(draft: Draft, step: Step) -> int:
        if not known:
            known.append(Relations(draft.steps))
        match step:
            case Intersect():
                return _intersection(draft, known[0], unique(step.operands))
            case Unite():
                return _union(draft, known[0], unique(step.operands))
            case Subtract():
                return _difference(draft, known[0], step)
            case _:
                return draft.add(step)

    return rewrite(plan, rule)


def _intersection(draft: Draft, relations: Relations, operands: list[int]) -> int:
    if len(operands) > OPERANDS_MAX:
        return draft.intersect(operands)
    if any(relations.apart(one, other) for one in operands for other in operands if one < other):
        return draft.nobody()
    kept = list(operands)
    for operand in operands:
        if any(other != operand and relations.inside(other, operand) for other in kept):
            kept.remove(operand)
    return draft.intersect(kept)


def _union(draft: Draft, relations: Relations, operands: list[int]) -> int:
    if len(operands) > OPERANDS_MAX:
        return draft.unite(operands)
    operands = unique(_without(draft, operand, operands) for operand in operands)
    kept = list(operands)
    for operand in operands:
        if any(other != operand and relations.inside(operand, other) for other in kept):
            kept.remove(operand)
    return draft.unite(kept)


def _without(draft: Draft, operand: int, beside: list[int]) -> int:
    """`u` in the place of `Subtract(u, a)` when `a` is an operand beside it."""
    step = draft.steps[operand]
    return step.minuend if isinstance(step, Subtract) and step.subtrahend in beside else operand


def _difference(draft: Draft, relations: Relations, step: Subtract) -> int:
    if relations.inside(step.minuend, step.subtrahend):
        return draft.nobody()
    if relations.apart(step.minuend, step.subtrahend):
        return step.minuend
    inner = draft.steps[step.subtrahend]
    if isinstance(inner, Intersect):
        kept = [operand for operand in inner.operands if not relations.inside(step.minuend, operand)]
        if kept and len(kept) < len(inner.operands):
            return draft.subtract(step.minuend, draft.intersect(kept))
    return draft.add(step)
