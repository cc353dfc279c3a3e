"""De Morgan where it saves work: merges complements, and turns a complement within a narrower set into a
difference from that set.

    Difference(x, Difference(u, a)), x inside u      → Intersection(x, a)
    Intersection(Difference(u, a), Difference(u, b)) → Difference(u, Union(a, b))
    Union(Difference(u, a), Difference(u, b))        → Difference(u, Intersection(a, b))
    Intersection(x, Difference(u, a)), x inside u    → Difference(x, a)
"""

from __future__ import annotations

from engine.plan.model import Difference, Intersection, Plan, Step, Union
from engine.plan.passes.relations import OPERANDS_MAX, Relations
from engine.plan.passes.rewrite import Draft, has, rewrite
from engine.plan.statistics import Statistics


def merge_complements(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with fewer, and later, complements."""
    if not has(plan, Difference):
        return plan
    relations: list[Relations] = []

    def rule(draft: Draft, step: Step) -> int:
        if not relations:
            relations.append(Relations(draft.steps))
        match step:
            case Difference():
                return _difference(draft, relations[0], step)
            case Intersection() if len(step.operands) <= OPERANDS_MAX:
                return _intersection(draft, relations[0], step)
            case Union():
                return _union(draft, step)
            case _:
                return draft.add(step)

    return rewrite(plan, rule)


def _difference(draft: Draft, relations: Relations, step: Difference) -> int:
    inner = draft.steps[step.subtrahend]
    if isinstance(inner, Difference) and relations.inside(step.minuend, inner.minuend):
        return draft.intersection([step.minuend, inner.subtrahend])
    return draft.add(step)


def _intersection(draft: Draft, relations: Relations, step: Intersection) -> int:
    kept = [operand for operand in step.operands if not isinstance(draft.steps[operand], Difference)]
    complements = _by_minuend(draft, step.operands)
    removed: list[int] = []
    for minuend in list(complements):
        # The other operand lies inside this minuend, so only the subtrahends remain.
        others = [*kept, *(other for other in complements if other != minuend)]
        if any(relations.inside(other, minuend) for other in others):
            removed.extend(complements.pop(minuend).values())
    if not removed and all(len(group) == 1 for group in complements.values()):
        return draft.add(step)
    for minuend, group in complements.items():
        whole = (
            draft.difference(minuend, draft.union([*group.values()])) if len(group) > 1 else next(iter(group))
        )
        kept.append(whole)
    rest = draft.intersection(kept)
    return draft.difference(rest, draft.union(removed)) if removed else rest


def _union(draft: Draft, step: Union) -> int:
    kept = [operand for operand in step.operands if not isinstance(draft.steps[operand], Difference)]
    complements = _by_minuend(draft, step.operands)
    if all(len(group) == 1 for group in complements.values()):
        return draft.add(step)
    for minuend, group in complements.items():
        whole = (
            draft.difference(minuend, draft.intersection([*group.values()]))
            if len(group) > 1
            else next(iter(group))
        )
        kept.append(whole)
    return draft.union(kept)


def _by_minuend(draft: Draft, operands: tuple[int, ...]) -> dict[int, dict[int, int]]:
    """The differences among the operands: minuend → operand → subtrahend."""
    complements: dict[int, dict[int, int]] = {}
    for operand in operands:
        inner = draft.steps[operand]
        if isinstance(inner, Difference):
            complements.setdefault(inner.minuend, {})[operand] = inner.subtrahend
    return complements
