"""One criterion becomes steps: for each node of the language, the set of users that it denotes.

To add a node: a case in `CriterionCompiler.node` and a method beside the others; the step that decides it in
`engine.plan.model`.
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
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    EventMatch,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Intersect,
    Nobody,
    SeenMatch,
    SequenceMatch,
    Subtract,
    TimeRange,
    Unite,
    Universe,
)
from engine.plan.model import Step as PlanStep
from engine.plan.resolve import ZERO_WITHOUT_EVENTS, resolve_number_test, resolve_where
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

    def intersect(self, operands: list[int]) -> int:
        """The step for users in all of one or more operands."""
        return operands[0] if len(operands) == 1 else self.add(Intersect(operands=tuple(operands)))

    def unite(self, operands: list[int]) -> int:
        """The step for users in any of the operands."""
        if not operands:
            return self.add(Nobody())
        return operands[0] if len(operands) == 1 else self.add(Unite(operands=tuple(operands)))


@dataclass(frozen=True, slots=True)
class CompiledNode:
    """A node of a criterion, its path as in the proto messages, and the step that denotes its set."""

    path: str
    criterion: Criterion
    step: int
    children: tuple[CompiledNode, ...] = ()


@dataclass(frozen=True, slots=True)
class CriterionCompiler:
    """Compiles criteria of one journey. `universe` is the step of the journey's users, against which every
    complement is taken; `audience` gives the step of an audience by its name, compiled before.
    """

    steps: StepList
    account: Account
    as_of: Micros
    inputs: tuple[str, ...]
    universe: int
    audience: Callable[[str], int]

    def node(self, criterion: Criterion, path: str) -> CompiledNode:
        """The criterion, compiled from its leaves up."""
        inner = f"{path}.{criterion.__struct_config__.tag}"
        children: tuple[CompiledNode, ...] = ()
        match criterion:
            case AllOf() | AnyOf():
                children = tuple(
                    self.node(child, f"{inner}.criteria[{index}]")
                    for index, child in enumerate(criterion.criteria)
                )
                step = self._group(criterion, [child.step for child in children])
            case Not():
                children = (self.node(criterion.criterion, inner),)
                step = self._everyone_but(children[0].step)
            case UserAttribute():
                step = self.steps.add(self._attribute(criterion))
            case Event():
                step = self._event(criterion)
            case Sequence():
                step = self.steps.add(self._sequence(criterion))
            case Audience():
                step = self.audience(criterion.name)
            case Consent():
                step = self.steps.add(
                    ConsentMatch(
                        regulation=criterion.regulation, purpose=criterion.purpose, state=criterion.state
                    )
                )
            case Identity():
                test = criterion.test.resolve(self.as_of)
                step = self.steps.add(IdentityMatch(type=criterion.type, test=test))
            case Bucket():
                step = self.steps.add(_bucket(criterion))
        return CompiledNode(path, criterion, step, children)

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
        return self.steps.add(Subtract(minuend=self.universe, subtrahend=step))

    def _group(self, group: AllOf | AnyOf, operands: list[int]) -> int:
        if isinstance(group, AllOf):
            return self.steps.intersect(operands) if operands else self.universe
        return self.steps.unite(operands)

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
        # Whoever has no event taking part stands at 0. A leaf holds no such user, so where 0 passes the leaf
        # is about the numbers that do not pass, and everyone else is in.
        zero_passes = event.aggregate in ZERO_WITHOUT_EVENTS and hold_number(intervals, 0.0)
        by_day = event.aggregate is Aggregate.DISTINCT_DAYS
        leaf = self.steps.add(
            EventMatch(
                selection=self.selection(event, events_range(event.window, self.as_of, self.account)),
                aggregate=event.aggregate,
                of=event.of,
                time_zone=self.account.time_zone if by_day else "UTC",
                intervals=complement(intervals) if zero_passes else intervals,
            )
        )
        return self._everyone_but(leaf) if zero_passes else leaf

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
    return BucketMatch(salt=criterion.salt, first=first, last=end - 1) if first < end else Nobody()


def _place(percent: float) -> int:
    """The first place at or beyond this share. A percentage stands for its shortest decimal form."""
    return math.ceil(Fraction(Decimal(repr(percent))) * HASHES / 100)
