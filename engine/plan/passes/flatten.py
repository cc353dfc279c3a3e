"""Flattening: merges nested groups of one kind.

    Intersection(Intersection(a, b), c) → Intersection(a, b, c)        Union(Union(a, b), c) → Union(a, b, c)

A group with other consumers stays: it is computed anyway, and one operand is cheaper.
"""

from __future__ import annotations

from collections import Counter

from engine.plan.model import Intersection, Plan, Step, Union, operands_of
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def flatten(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with groups merged into the only group that uses them."""
    if sum(isinstance(step, Intersection | Union) for step in plan.steps) < 2:
        return plan
    uses = Counter(operand for step in plan.steps for operand in operands_of(step))
    uses.update(plan.roots)
    used_once = {index for index, step in enumerate(plan.steps) if uses[index] == 1}
    place = iter(range(len(plan.steps)))
    private: set[int] = set()

    def rule(draft: Draft, step: Step) -> int:
        if isinstance(step, Intersection | Union):
            step = type(step)(operands=tuple(_operands(draft, step, private)))
        index = draft.add(step)
        if next(place) in used_once:
            private.add(index)
        return index

    return rewrite(plan, rule)


def _operands(draft: Draft, group: Intersection | Union, private: set[int]) -> list[int]:
    operands: list[int] = []
    for operand in group.operands:
        inner = draft.steps[operand]
        if operand in private and isinstance(inner, type(group)):
            operands.extend(operands_of(inner))
        else:
            operands.append(operand)
    return operands
