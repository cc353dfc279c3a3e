"""Cheap and selective first.

A backend looks at the operands of Intersect from left to right and may stop, or look only at the users left.
So they are ordered by what looking at one costs over the share of users it is expected to remove, the rank
under which a row of independent tests costs least; those of Unite by cost over the share it is expected to
add. Costs are rough figures in the unit "one stored bitmap", shares come from statistics, if there are some.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from engine.criteria.model import Aggregate
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    EventMatch,
    IdentityMatch,
    Intersect,
    Nobody,
    Plan,
    Predicate,
    SeenMatch,
    SequenceMatch,
    Step,
    Subtract,
    Unite,
    Universe,
)
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.passes.statistics import Statistics

_COSTS: dict[type[Predicate], float] = {
    ConsentMatch: 1.0,
    AttributeMatch: 2.0,
    IdentityMatch: 2.0,
    SeenMatch: 5.0,
    EventMatch: 20.0,
    BucketMatch: 30.0,
    SequenceMatch: 100.0,
}
WHERE_COST = 20.0
AGGREGATE_COST = 20.0
SHARE_UNKNOWN = 0.25


class Estimate(NamedTuple):
    """What a step is expected to cost, its operands included, and the share of users in its set."""

    cost: float
    share: float


def order_operands(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with the operands of every group in the order in which they are best looked at."""
    estimates: list[Estimate] = []

    def rule(draft: Draft, step: Step) -> int:
        match step:
            case Intersect():
                step = Intersect(operands=_ordered(step.operands, estimates, of_all=True))
            case Unite():
                step = Unite(operands=_ordered(step.operands, estimates, of_all=False))
            case _:
                pass
        estimates.append(_estimate(step, estimates, statistics))
        return draft.add(step)

    return rewrite(plan, rule)


def _ordered(operands: tuple[int, ...], estimates: list[Estimate], *, of_all: bool) -> tuple[int, ...]:
    def rank(operand: int) -> tuple[float, int]:
        cost, share = estimates[operand]
        deciding = 1 - share if of_all else share
        return cost / deciding if deciding > 0 else math.inf, operand

    return tuple(sorted(operands, key=rank))


def _estimate(step: Step, estimates: list[Estimate], statistics: Statistics) -> Estimate:
    match step:
        case Nobody():
            return Estimate(0.0, 0.0)
        case Universe():
            return Estimate(1.0, 1.0)
        case Intersect():
            parts = [estimates[operand] for operand in step.operands]
            return Estimate(_total(parts), math.prod(part.share for part in parts))
        case Unite():
            parts = [estimates[operand] for operand in step.operands]
            return Estimate(_total(parts), 1 - math.prod(1 - part.share for part in parts))
        case Subtract():
            minuend, subtrahend = estimates[step.minuend], estimates[step.subtrahend]
            return Estimate(_total([minuend, subtrahend]), minuend.share * (1 - subtrahend.share))
        case _:
            share = statistics.share(step)
            return Estimate(_cost(step), SHARE_UNKNOWN if share is None else share)


def _total(parts: list[Estimate]) -> float:
    return 1.0 + sum(part.cost for part in parts)


def _cost(predicate: Predicate) -> float:
    cost = _COSTS[type(predicate)]
    if isinstance(predicate, EventMatch):
        cost += WHERE_COST * (predicate.selection.where is not None)
        cost += AGGREGATE_COST * (predicate.aggregate is not Aggregate.COUNT)
    return cost
