"""One criterion becomes steps: for each node of the language, the set of users that it denotes.

To add a node: a method of `CriterionVisitor`, which every visitor then has to have, and the step that decides
it in `engine.plan.model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    LAST_SEEN,
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Consent,
    Criterion,
    Event,
    Identity,
    Not,
    Sequence,
    Step,
    UserAttribute,
)
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import complement, hold_number
from engine.criteria.visitor import CriterionVisitor
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Intersection,
    SeenMatch,
    SequenceMatch,
    TimeRange,
    Union,
    Universe,
)
from engine.plan.model import Step as PlanStep
from engine.plan.resolve import resolve_number_test, resolve_where
from engine.plan.tree import Account, workspaces_of
from engine.plan.windows import events_range
from engine.values import Micros

HASHES = 2**64
"""How many places there are for a user in `bucket_of`."""


class StepList:
    """A plan in the making: steps in dependency order."""

    def __init__(self) -> None:
        self.steps: list[PlanStep] = []

    def add(self, step: PlanStep) -> int:
        """Appends a step and answers its index."""
        self.steps.append(step)
        return len(self.steps) - 1

    def intersection(self, operands: list[int]) -> int:
        """The step for users in all of one or more operands."""
        return operands[0] if len(operands) == 1 else self.add(Intersection(operands=tuple(operands)))

    def union(self, operands: list[int]) -> int:
        """The step for users in any of the operands."""
        if not operands:
            return self.add(Empty())
        return operands[0] if len(operands) == 1 else self.add(Union(operands=tuple(operands)))


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node of a criterion, its path as in the proto messages, and the step that denotes its set."""

    path: str
    criterion: Criterion
    step: int
    children: tuple[CompiledNode, ...] = ()


@dataclass(frozen=True)
class CriterionCompiler(CriterionVisitor[str, CompiledNode]):
    """Compiles criteria of one journey; the context of a visit is the path of the node's message. `universe`
    is the step of the journey's users, against which every complement is taken; `audience_step` gives the
    step of an audience by its name, compiled before.
    """

    steps: StepList
    account: Account
    as_of: Micros
    inputs: tuple[str, ...]
    universe: int
    audience_step: Callable[[str], int]

    def all_of(self, criterion: AllOf, path: str) -> CompiledNode:
        children = self._children(criterion, path)
        operands = [child.step for child in children]
        step = self.steps.intersection(operands) if operands else self.universe
        return CompiledNode(path, criterion, step, children)

    def any_of(self, criterion: AnyOf, path: str) -> CompiledNode:
        children = self._children(criterion, path)
        step = self.steps.union([child.step for child in children])
        return CompiledNode(path, criterion, step, children)

    def _children(self, group: AllOf | AnyOf, path: str) -> tuple[CompiledNode, ...]:
        inner = f"{path}.{group.__struct_config__.tag}.criteria"
        return tuple(self.visit(part, f"{inner}[{index}]") for index, part in enumerate(group.criteria))

    def not_(self, criterion: Not, path: str) -> CompiledNode:
        child = self.visit(criterion.criterion, f"{path}.not")
        return CompiledNode(path, criterion, self._everyone_but(child.step), (child,))

    def user_attribute(self, criterion: UserAttribute, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.steps.add(self._attribute(criterion)))

    def event(self, criterion: Event, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self._event(criterion))

    def sequence(self, criterion: Sequence, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.steps.add(self._sequence(criterion)))

    def audience(self, criterion: Audience, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.audience_step(criterion.name))

    def consent(self, criterion: Consent, path: str) -> CompiledNode:
        step = ConsentMatch(regulation=criterion.regulation, purpose=criterion.purpose, state=criterion.state)
        return CompiledNode(path, criterion, self.steps.add(step))

    def identity(self, criterion: Identity, path: str) -> CompiledNode:
        step = IdentityMatch(type=criterion.type, test=criterion.test.resolve(self.as_of))
        return CompiledNode(path, criterion, self.steps.add(step))

    def bucket(self, criterion: Bucket, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.steps.add(_bucket(criterion)))

    def selection(self, selected: Event | Step, time: TimeRange) -> EventSelection:
        """The events that an event criterion or a step of a sequence is about."""
        where = selected.where
        return EventSelection(
            inputs=tuple(sorted(set(selected.inputs))) or self.inputs,
            name=selected.name,
            type=selected.type,
            time=time,
            where=None if where is None else resolve_where(where, self.as_of),
        )

    def _everyone_but(self, step: int) -> int:
        return self.steps.add(Difference(minuend=self.universe, subtrahend=step))

    def _attribute(self, criterion: UserAttribute) -> PlanStep:
        test = criterion.test.resolve(self.as_of)
        if criterion.key not in BUILT_IN_ATTRIBUTES:
            return AttributeMatch(workspaces=workspaces_of(self.inputs), key=criterion.key, test=test)
        return SeenMatch(
            inputs=self.inputs,
            last=criterion.key == LAST_SEEN,
            test=InstantRange(matcher_of(test).instants),
        )

    def _event(self, event: Event) -> int:
        intervals = resolve_number_test(event.test)
        # The number of a user without events taking part is 0, but a predicate holds no such user. So where 0
        # passes, the predicate is about the numbers that do not pass, and everyone else is in.
        zero_passes = event.aggregate.is_zero_without_events and hold_number(intervals, 0.0)
        by_day = event.aggregate is Aggregate.DISTINCT_DAYS
        predicate = self.steps.add(
            EventMatch(
                selection=self.selection(event, events_range(event.window, self.as_of, self.account)),
                aggregate=event.aggregate,
                of=event.of,
                time_zone=self.account.time_zone if by_day else "UTC",
                intervals=complement(intervals) if zero_passes else intervals,
            )
        )
        return self._everyone_but(predicate) if zero_passes else predicate

    def _sequence(self, sequence: Sequence) -> PlanStep:
        time = events_range(sequence.window, self.as_of, self.account)
        return SequenceMatch(
            steps=tuple(self.selection(step, time) for step in sequence.steps), within=sequence.within
        )


def universe_of(inputs: tuple[str, ...]) -> Universe:
    """The users of a journey over these inputs."""
    return Universe(inputs=tuple(sorted(set(inputs))))


def _bucket(criterion: Bucket) -> PlanStep:
    first, end = (_place(percent) for percent in (criterion.from_percent, criterion.to_percent))
    return BucketMatch(salt=criterion.salt, first=first, last=end - 1) if first < end else Empty()


def _place(percent: float) -> int:
    """The first place at or beyond this share. A percentage stands for its shortest decimal form."""
    return math.ceil(Fraction(Decimal(repr(percent))) * HASHES / 100)
