"""Operand order: cheap and selective first.

A backend reads the operands of an intersection from left to right and may stop, or read only the remaining
users. So they are ordered by cost over the share of users they are expected to remove, the rank under which a
series of independent tests costs least. Operands of a union are ordered by cost over the share they are
expected to add. Costs and shares come from `engine.plan.costs`.
"""

from __future__ import annotations

import math

from engine.plan.costs import CostModel, Estimate
from engine.plan.model import Intersection, Plan, Step, Union
from engine.plan.passes.rewrite import Draft, has, rewrite
from engine.plan.statistics import Statistics


def order_operands(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with the operands of every group in the best order."""
    if not has(plan, (Intersection, Union)):
        return plan
    costs = CostModel(statistics)

    def rule(draft: Draft, step: Step) -> int:
        match step:
            case Intersection():
                step = Intersection(operands=_ordered(step.operands, costs.estimates, of_all=True))
            case Union():
                step = Union(operands=_ordered(step.operands, costs.estimates, of_all=False))
            case _:
                pass
        costs.add(step)
        return draft.add(step)

    return rewrite(plan, rule)


def _ordered(operands: tuple[int, ...], estimates: list[Estimate], *, of_all: bool) -> tuple[int, ...]:
    def rank(operand: int) -> tuple[float, int]:
        cost, share = estimates[operand]
        deciding = 1 - share if of_all else share
        return cost / deciding if deciding > 0 else math.inf, operand

    return tuple(sorted(operands, key=rank))
