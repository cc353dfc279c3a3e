"""Building blocks of passes: rewrites a plan step by step, each after its operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec

from engine.plan.model import Difference, Empty, Intersection, Plan, Step, Union, operands_of


class Draft:
    """The steps of the new plan so far."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def add(self, step: Step) -> int:
        """Appends a step whose operands are indices of this draft."""
        self.steps.append(step)
        return len(self.steps) - 1

    def empty(self) -> int:
        """The step for the empty set."""
        return self.add(Empty())

    def intersection(self, operands: Sequence[int]) -> int:
        """The users in all of one or more operands."""
        return operands[0] if len(operands) == 1 else self.add(Intersection(operands=tuple(operands)))

    def union(self, operands: Sequence[int]) -> int:
        """The users in any of the operands."""
        if not operands:
            return self.empty()
        return operands[0] if len(operands) == 1 else self.add(Union(operands=tuple(operands)))

    def difference(self, minuend: int, subtrahend: int) -> int:
        """The users in the minuend and not in the subtrahend."""
        return self.add(Difference(minuend=minuend, subtrahend=subtrahend))


Rule: TypeAlias = Callable[[Draft, Step], int]
"""Adds the replacement of a step whose operands are already in the draft, and returns its index."""


def rewrite(plan: Plan, rule: Rule) -> Plan:
    """The plan with the rule applied to every step, without steps that no root needs. The same object when
    that changes nothing, which is the rule: a plan is rewritten by every pass several times.
    """
    draft = Draft()
    moved: list[int] = []
    for step in plan.steps:
        moved.append(rule(draft, with_operands(step, moved)))
    return pruned(plan, draft.steps, [moved[root] for root in plan.roots])


def has(plan: Plan, kinds: type[Step] | tuple[type[Step], ...]) -> bool:
    """Whether some step is of a kind: a pass leaves a plan without alone."""
    return any(isinstance(step, kinds) for step in plan.steps)


def with_operands(step: Step, place: Sequence[int] | Mapping[int, int]) -> Step:
    """The same step with each operand replaced by its new index."""
    match step:
        case Intersection() | Union():
            operands = tuple([place[operand] for operand in step.operands])
            return step if operands == step.operands else type(step)(operands=operands)
        case Difference():
            minuend, subtrahend = place[step.minuend], place[step.subtrahend]
            if (minuend, subtrahend) == (step.minuend, step.subtrahend):
                return step
            return Difference(minuend=minuend, subtrahend=subtrahend)
        case _:
            return step


def pruned(plan: Plan, steps: Sequence[Step], roots: Sequence[int]) -> Plan:
    """A plan with only the steps that the roots need, in the same order."""
    needed = set(roots)
    for index in range(len(steps) - 1, -1, -1):
        if index in needed:
            needed.update(operands_of(steps[index]))
    if len(needed) == len(steps):
        # Every step is needed, so none moves.
        kept, new_roots = tuple(steps), tuple(roots)
        is_same = len(kept) == len(plan.steps) and all(map(_is_same, kept, plan.steps))
        if is_same and new_roots == plan.roots:
            return plan
        return msgspec.structs.replace(plan, steps=kept, roots=new_roots)
    place = {index: position for position, index in enumerate(sorted(needed))}
    kept = tuple([with_operands(steps[index], place) for index in place])
    return msgspec.structs.replace(plan, steps=kept, roots=tuple(place[root] for root in roots))


def _is_same(step: Step, other: Step) -> bool:
    """Whether a step is certain to be the same. Steps without operands are compared as objects: equality of
    structs confuses Equals(1.0) with Equals(True).
    """
    return step is other or (bool(operands_of(step)) and type(step) is type(other) and step == other)


def unique(operands: Iterable[int]) -> list[int]:
    """The distinct operands, in order."""
    return list(dict.fromkeys(operands))
