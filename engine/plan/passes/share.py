"""Common sub-expressions: merges steps of the same form.

Steps are the same when their encodings are the same bytes (struct equality would confuse Equals(1.0) with
Equals(True)). The order of the operands of Intersection and Union does not matter.
"""

from __future__ import annotations

from engine.plan.model import Intersection, Plan, Step, Union, encode_step
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def share(plan: Plan, statistics: Statistics) -> Plan:
    """The plan without duplicate steps."""
    if len(set(map(type, plan.steps))) == len(plan.steps):
        return plan
    known: dict[bytes, int] = {}

    def rule(draft: Draft, step: Step) -> int:
        key = encode_step(_canonical(step))
        if key not in known:
            known[key] = draft.add(step)
        return known[key]

    return rewrite(plan, rule)


def _canonical(step: Step) -> Step:
    match step:
        case Intersection():
            return Intersection(operands=tuple(sorted(step.operands)))
        case Union():
            return Union(operands=tuple(sorted(step.operands)))
        case _:
            return step
