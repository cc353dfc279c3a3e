"""Relations between steps that hold for any data: containment and disjointness.

They follow from the form of the steps alone. "No" means "not known".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from engine.plan.model import (
    Difference,
    Empty,
    EventMatch,
    Intersection,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
)

DEPTH_MAX = 4
"""Maximum search depth; relations beyond it are not known."""

OPERANDS_MAX = 64
"""Groups with more operands are skipped: the number of pairs grows with the square."""

YES = -1

Inputs: TypeAlias = frozenset[str]
Pair: TypeAlias = tuple[int, int]
Answers: TypeAlias = dict[Pair, int]
"""For a pair of steps YES, or the depth searched without an answer."""
Decide: TypeAlias = Callable[[int, int, int], bool]


class Relations:
    """Relations between the steps of a list that may grow."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._inputs: list[Inputs | None] = []
        self._inside: Answers = {}
        self._apart: Answers = {}

    def inputs_of(self, index: int) -> Inputs | None:
        """Inputs of which every user of the step belongs to at least one; None when unknown."""
        for step in self._steps[len(self._inputs) : index + 1]:
            self._inputs.append(self._bound(step))
        return self._inputs[index]

    def inside(self, one: int, other: int, depth: int = DEPTH_MAX) -> bool:
        """Whether every user of `one` is a user of `other`."""
        if one == other:
            return True
        return self._known(self._inside, (one, other), depth, self._decide_inside)

    def apart(self, one: int, other: int, depth: int = DEPTH_MAX) -> bool:
        """Whether no user of `one` is a user of `other`."""
        return self._known(self._apart, (min(one, other), max(one, other)), depth, self._decide_apart)

    def _known(self, answers: Answers, pair: Pair, depth: int, decide: Decide) -> bool:
        """ "Yes" holds at any depth, "no" down to the searched depth."""
        looked = answers.get(pair, 0)
        if looked != YES and looked < depth:
            looked = answers[pair] = YES if decide(*pair, depth - 1) else depth
        return looked == YES

    def _decide_apart(self, one: int, other: int, depth: int) -> bool:
        return self._apart_from(one, other, depth) or self._apart_from(other, one, depth)

    def _decide_inside(self, one: int, other: int, depth: int) -> bool:
        container = self._steps[other]
        if isinstance(container, Universe):
            inputs = self.inputs_of(one)
            if inputs is not None and inputs <= frozenset(container.inputs):
                return True
        return self._part_inside(one, other, depth) or self._inside_parts(one, other, depth)

    def _part_inside(self, one: int, other: int, depth: int) -> bool:
        match self._steps[one]:
            case Empty():
                return True
            case Intersection(operands=operands):
                return any(self.inside(operand, other, depth) for operand in operands)
            case Union(operands=operands):
                return all(self.inside(operand, other, depth) for operand in operands)
            case Difference(minuend=minuend):
                return self.inside(minuend, other, depth)
            case _:
                return False

    def _inside_parts(self, one: int, other: int, depth: int) -> bool:
        match self._steps[other]:
            case Intersection(operands=operands):
                return all(self.inside(one, operand, depth) for operand in operands)
            case Union(operands=operands):
                return any(self.inside(one, operand, depth) for operand in operands)
            case Difference(minuend=minuend, subtrahend=subtrahend):
                return self.inside(one, minuend, depth) and self.apart(one, subtrahend, depth)
            case _:
                return False

    def _apart_from(self, one: int, other: int, depth: int) -> bool:
        match self._steps[one]:
            case Empty():
                return True
            case Difference(minuend=minuend, subtrahend=subtrahend):
                return self.inside(other, subtrahend, depth) or self.apart(minuend, other, depth)
            case Intersection(operands=operands):
                return any(self.apart(operand, other, depth) for operand in operands)
            case Union(operands=operands):
                return all(self.apart(operand, other, depth) for operand in operands)
            case _:
                return False

    def _bound(self, step: Step) -> Inputs | None:
        match step:
            case Empty():
                return frozenset()
            case Universe() | SeenMatch():
                return frozenset(step.inputs)
            case EventMatch():
                return frozenset(step.selection.inputs)
            case SequenceMatch():
                return min((frozenset(part.inputs) for part in step.steps), key=len, default=None)
            case Difference():
                return self._inputs[step.minuend]
            case Intersection():
                known = [bound for operand in step.operands if (bound := self._inputs[operand]) is not None]
                return min(known, key=len) if known else None
            case Union():
                bounds = [self._inputs[operand] for operand in step.operands]
                known = [bound for bound in bounds if bound is not None]
                return frozenset().union(*known) if len(known) == len(bounds) else None
            case _:
                return None
