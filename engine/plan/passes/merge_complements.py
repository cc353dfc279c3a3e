"""De Morgan where it saves work: several complements become one, and a complement within a narrower set
becomes a difference from that set.

    Subtract(x, Subtract(u, a)), x inside u     → Intersect(x, a)
    Intersect(Subtract(u, a), Subtract(u, b))   → Subtract(u, Unite(a, b))
    Unite(Subtract(u, a), Subtract(u, b))       → Subtract(u, Intersect(a, b))
    Intersect(x, Subtract(u, a)), x inside u    → Subtract(x, a)
"""

from __future__ import annotations

from engine.plan.model import Intersect, Plan, Step, Subtract, Unite
from engine.plan.passes.relations import OPERANDS_MAX, Relations
from engine.plan.passes.rewrite import Draft, rewrite
from engine.plan.statistics import Statistics


def merge_complements(plan: Plan, statistics: Statistics) -> Plan:
    """The plan with fewer, and later, complements."""
    relations: list[Relations] = []

    def rule(draft: Draft, step: Step) -> int:
        if not relations:
            relations.append(Relations(draft.steps))
        match step:
            case Subtract():
                return _difference(draft, relations[0], step)
            case Intersect() if len(step.operands) <= OPERANDS_MAX:
                return _intersection(draft, relations[0], step)
            case Unite():
                return _union(draft, step)
            case _:
                return draft.add(step)

    return rewrite(plan, rule)


def _difference(draft: Draft, relations: Relations, step: Subtract) -> int:
    inner = draft.steps[step.subtrahend]
    if isinstance(inner, Subtract) and relations.inside(step.minuend, inner.minuend):
        return draft.intersect([step.minuend, inner.subtrahend])
    return draft.add(step)


def _intersection(draft: Draft, relations: Relations, step: Intersect) -> int:
    kept = [operand for operand in step.operands if not isinstance(draft.steps[operand], Subtract)]
    complements = _by_minuend(draft, step.operands)
    removed: list[int] = []
    for minuend in list(complements):
        # What lies in another operand lies in this minuend already: only the subtrahends are left to do.
        others = [*kept, *(other for other in complements if other != minuend)]
        if any(relations.inside(other, minuend) for other in others):
            removed.extend(complements.pop(minuend).values())
    if not removed and all(len(group) == 1 for group in complements.values()):
        return draft.add(step)
    for minuend, group in complements.items():
        whole = (
            draft.subtract(minuend, draft.unite([*group.values()])) if len(group) > 1 else next(iter(group))
        )
        kept.append(whole)
    rest = draft.intersect(kept)
    return draft.subtract(rest, draft.unite(removed)) if removed else rest


def _union(draft: Draft, step: Unite) -> int:
    kept = [operand for operand in step.operands if not isinstance(draft.steps[operand], Subtract)]
    complements = _by_minuend(draft, step.operands)
    if all(len(group) == 1 for group in complements.values()):
        return draft.add(step)
    for minuend, group in complements.items():
        whole = (
            draft.subtract(minuend, draft.intersect([*group.values()]))
            if len(group) > 1
            else next(iter(group))
        )
        kept.append(whole)
    return draft.unite(kept)


def _by_minuend(draft: Draft, operands: tuple[int, ...]) -> dict[int, dict[int, int]]:
    """The differences among the operands: minuend → operand → subtrahend."""
    complements: dict[int, dict[int, int]] = {}
    for operand in operands:
        inner = draft.steps[operand]
        if isinstance(inner, Subtract):
            complements.setdefault(inner.minuend, {})[operand] = inner.subtrahend
    return complements
