"""Common sub-expressions: steps that denote the same set by the same form become one step.

Steps are the same when their encodings are the same bytes (struct equality would take Equals(1.0) for
Equals(True)); the order of the operands of Intersection and Union makes no difference.
"""

from __future__ import annotations

from engine.plan.model import Intersection, Plan, Step, Union, encode_step
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def share(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with each distinct step once."""
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
