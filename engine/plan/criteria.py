"""Compiles one criterion into steps: for each node, the set of users that it denotes.

To add a node: add a method to `CriterionVisitor`, which every visitor must then implement, and the step that
decides it to `engine.plan.model`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeAlias

import msgspec

from engine.criteria.model import (
    BUILT_IN_ATTRIBUTES,
    LAST_SEEN,
    USER_ID,
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
    RowFilter,
    SeenMatch,
    SequenceMatch,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.model import Step as PlanStep
from engine.plan.resolve import resolve_number_test, resolve_where
from engine.plan.tree import Account, workspaces_of
from engine.plan.windows import events_range
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros

HASHES = 2**64
"""Number of values of `bucket_of`."""

StepMaker: TypeAlias = Callable[[Micros], PlanStep]
"""Makes a predicate step as of an instant."""


class StepList:
    """A plan under construction: steps in dependency order, as of one instant."""

    def __init__(self, as_of: Micros) -> None:
        self._as_of = as_of
        self.steps: list[PlanStep] = []
        self.makers: dict[int, StepMaker] = {}
        """What makes the steps that may depend on the instant, by index."""
        self.sources: dict[int, tuple[Criterion, tuple[str, ...]]] = {}
        """By index what these are made of beside the account: the criterion, and the journey's inputs."""

    def add(self, step: PlanStep) -> int:
        """Appends a step and returns its index."""
        self.steps.append(step)
        return len(self.steps) - 1

    def add_timed(self, make: StepMaker, source: Criterion, inputs: tuple[str, ...]) -> int:
        """Appends a step that may depend on the instant. It must depend on nothing else but the criterion,
        the inputs and the account.
        """
        index = self.add(make(self._as_of))
        self.makers[index], self.sources[index] = make, (source, inputs)
        return index

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
    is the step of the journey's users, from which every complement is taken; `audience_step` returns the step
    of an audience by its name.
    """

    steps: StepList
    account: Account
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
        return CompiledNode(path, criterion, self._attribute(criterion))

    def event(self, criterion: Event, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self._event(criterion))

    def sequence(self, criterion: Sequence, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self._sequence(criterion))

    def audience(self, criterion: Audience, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.audience_step(criterion.name))

    def consent(self, criterion: Consent, path: str) -> CompiledNode:
        step = ConsentMatch(regulation=criterion.regulation, purpose=criterion.purpose, state=criterion.state)
        return CompiledNode(path, criterion, self.steps.add(step))

    def identity(self, criterion: Identity, path: str) -> CompiledNode:
        step = self._timed(
            lambda as_of: IdentityMatch(type=criterion.type, test=criterion.test.resolve(as_of)), criterion
        )
        return CompiledNode(path, criterion, step)

    def bucket(self, criterion: Bucket, path: str) -> CompiledNode:
        return CompiledNode(path, criterion, self.steps.add(_bucket(criterion)))

    def _selection(self, selected: Event | Step) -> Callable[[TimeRange, Micros], EventSelection]:
        """What selects the events of an event criterion or of a step of a sequence: those in a time range, as
        of an instant.
        """
        inputs = tuple(sorted(set(selected.inputs))) or self.inputs
        name, type_ = selected.name, selected.type
        condition = _row_filter(selected)

        def select(time: TimeRange, as_of: Micros) -> EventSelection:
            return EventSelection(inputs=inputs, name=name, type=type_, time=time, where=condition(as_of))

        return select

    def _timed(self, make: StepMaker, criterion: Criterion) -> int:
        """Adds a step that depends on the instant. `make` does not refer to the compiler, which refers to the
        steps: what a plan was compiled by would be a cycle, for the garbage collector to find.
        """
        return self.steps.add_timed(make, criterion, self.inputs)

    def _everyone_but(self, step: int) -> int:
        return self.steps.add(Difference(minuend=self.universe, subtrahend=step))

    def _attribute(self, criterion: UserAttribute) -> int:
        key, test, inputs = criterion.key, criterion.test, self.inputs
        if key not in BUILT_IN_ATTRIBUTES:
            workspaces = workspaces_of(inputs)
            return self._timed(
                lambda as_of: AttributeMatch(workspaces=workspaces, key=key, test=test.resolve(as_of)),
                criterion,
            )
        if key == USER_ID:
            return self._timed(lambda as_of: UserIdMatch(test=test.resolve(as_of)), criterion)
        return self._timed(
            lambda as_of: SeenMatch(
                inputs=inputs,
                last=key == LAST_SEEN,
                test=InstantRange(matcher_of(test.resolve(as_of)).instants),
            ),
            criterion,
        )

    def _event(self, event: Event) -> int:
        intervals = resolve_number_test(event.test)
        # Without events the number is 0, but an event predicate never contains such users. So where 0 passes,
        # the predicate selects the numbers that do not pass, and its complement is the result.
        zero_passes = event.aggregate.is_zero_without_events and hold_number(intervals, 0.0)
        if zero_passes:
            intervals = complement(intervals)
        time_zone = self.account.time_zone if event.aggregate is Aggregate.DISTINCT_DAYS else "UTC"
        account, select = self.account, self._selection(event)
        predicate = self._timed(
            lambda as_of: EventMatch(
                selection=select(events_range(event.window, as_of, account), as_of),
                aggregate=event.aggregate,
                of=event.of,
                time_zone=time_zone,
                intervals=intervals,
            ),
            event,
        )
        return self._everyone_but(predicate) if zero_passes else predicate

    def _sequence(self, sequence: Sequence) -> int:
        account, selects = self.account, [self._selection(step) for step in sequence.steps]

        def make(as_of: Micros) -> PlanStep:
            time = events_range(sequence.window, as_of, account)
            return SequenceMatch(
                steps=tuple(select(time, as_of) for select in selects), within=sequence.within
            )

        return self._timed(make, sequence)


def _row_filter(selected: Event | Step) -> Callable[[Micros], RowFilter | None]:
    """The condition on one event as of an instant; one object if it is the same at all of them."""
    where = selected.where
    if where is None:
        return lambda as_of: None
    first, last = (resolve_where(where, end) for end in (TIME_MIN_MICROS, TIME_MAX_MICROS))
    if msgspec.msgpack.encode(first) == msgspec.msgpack.encode(last):
        return lambda as_of: first
    return lambda as_of: resolve_where(where, as_of)


def universe_of(inputs: tuple[str, ...]) -> Universe:
    """The users of a journey over these inputs."""
    return Universe(inputs=tuple(sorted(set(inputs))))


def _bucket(criterion: Bucket) -> PlanStep:
    first, end = (_place(percent) for percent in (criterion.from_percent, criterion.to_percent))
    return BucketMatch(salt=criterion.salt, first=first, last=end - 1) if first < end else Empty()


def _place(percent: float) -> int:
    """The first bucket at or beyond this share. A percentage stands for its shortest decimal form."""
    return math.ceil(Fraction(Decimal(repr(percent))) * HASHES / 100)
