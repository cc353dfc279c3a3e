"""The cost model: expected cost and size of a step.

The planner orders operands by it, and so does a backend when it executes them. Costs are rough figures in
units of one stored bitmap; shares come from statistics when available.
"""

from __future__ import annotations

import enum
import math
from typing import NamedTuple

from engine.criteria.model import Aggregate, Equals, Exists, In
from engine.criteria.operators import ResolvedTest, kinds_passing
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    IdentityMatch,
    Intersection,
    Predicate,
    SeenMatch,
    SequenceMatch,
    Step,
    Union,
    Universe,
    UserIdMatch,
)
from engine.plan.statistics import NoStatistics, Statistics
from engine.plan.visitor import StepVisitor
from engine.values import Kind, Value

LOOKUP_COST = 1.0
"""A stored bitmap."""
COLUMN_COST = 4.0
"""A number or a time for each user."""
TEXT_SCAN_COST = 8.0
"""A test for each distinct string."""
EVENTS_COST = 16.0
"""Counting a user's events in a window."""
CONDITION_COST = 4.0
"""In addition, the attributes that `where` tests."""
AGGREGATE_COST = 4.0
"""In addition, the aggregated attribute."""
SEQUENCE_COST = 32.0
"""The times of all events of each step."""
COMBINATION_COST = 1.0
"""A set operation, without its operands."""

SHARE_UNKNOWN = 0.25


class Access(enum.Enum):
    """The access path for users whose attribute passes a test."""

    LOOKUP = LOOKUP_COST
    COLUMN = COLUMN_COST
    TEXT_SCAN = TEXT_SCAN_COST


def access_of(test: ResolvedTest) -> Access:
    """The most expensive access path that a test on an attribute needs."""
    if isinstance(test, Exists):
        return Access.LOOKUP
    kinds = kinds_passing(test)
    operands = equal_to(test)
    # Whole lists are not indexed, only their elements.
    if any(type(operand) is tuple for operand in operands):
        return Access.TEXT_SCAN
    if Kind.STRING in kinds and not looks_up_texts(test):
        return Access.TEXT_SCAN
    return Access.LOOKUP if kinds.isdisjoint(_COLUMNS) else Access.COLUMN


_COLUMNS = frozenset({Kind.NUMBER, Kind.TIME})


def equal_to(test: ResolvedTest) -> tuple[Value, ...]:
    """The values that a test compares with, if it is an equality test; otherwise none."""
    if isinstance(test, Equals):
        return (test.value,)
    return test.values if isinstance(test, In) else ()


def looks_up_texts(test: ResolvedTest) -> bool:
    """Whether the passing strings are known exactly."""
    return isinstance(test, Equals | In) and not test.ignore_case


class Estimate(NamedTuple):
    """The expected cost of a step, including its operands, and the share of users in its set, 0 to 1."""

    cost: float
    share: float


class CostModel(StepVisitor[Estimate]):
    """Estimates for the steps of a plan, taken in its order: `estimates[i]` is for step i."""

    def __init__(self, statistics: Statistics | None = None) -> None:
        self.estimates: list[Estimate] = []
        self._statistics = statistics or NoStatistics()

    def add(self, step: Step) -> Estimate:
        """The estimate for the next step."""
        estimate = self.visit(step)
        self.estimates.append(estimate)
        return estimate

    def universe(self, step: Universe) -> Estimate:
        return Estimate(LOOKUP_COST, 1.0)

    def empty(self, step: Empty) -> Estimate:
        return Estimate(0.0, 0.0)

    def intersection(self, step: Intersection) -> Estimate:
        return self._combined(step.operands, math.prod(self.estimates[i].share for i in step.operands))

    def union(self, step: Union) -> Estimate:
        outside = math.prod(1 - self.estimates[operand].share for operand in step.operands)
        return self._combined(step.operands, 1 - outside)

    def difference(self, step: Difference) -> Estimate:
        share = self.estimates[step.minuend].share * (1 - self.estimates[step.subtrahend].share)
        return self._combined((step.minuend, step.subtrahend), share)

    def attribute(self, step: AttributeMatch) -> Estimate:
        return self._predicate(step, access_of(step.test).value)

    def seen(self, step: SeenMatch) -> Estimate:
        return self._predicate(step, COLUMN_COST)

    def identity(self, step: IdentityMatch) -> Estimate:
        return self._predicate(step, access_of(step.test).value)

    def user_id(self, step: UserIdMatch) -> Estimate:
        return self._predicate(step, access_of(step.test).value)

    def consent(self, step: ConsentMatch) -> Estimate:
        return self._predicate(step, LOOKUP_COST)

    def event(self, step: EventMatch) -> Estimate:
        cost = EVENTS_COST
        cost += CONDITION_COST * (step.selection.where is not None)
        cost += AGGREGATE_COST * (step.aggregate is not Aggregate.COUNT)
        return self._predicate(step, cost)

    def sequence(self, step: SequenceMatch) -> Estimate:
        return self._predicate(step, SEQUENCE_COST)

    def bucket(self, step: BucketMatch) -> Estimate:
        return self._predicate(step, COLUMN_COST)

    def _predicate(self, step: Predicate, cost: float) -> Estimate:
        share = self._statistics.share(step)
        return Estimate(cost, SHARE_UNKNOWN if share is None else share)

    def _combined(self, operands: tuple[int, ...], share: float) -> Estimate:
        return Estimate(COMBINATION_COST + sum(self.estimates[i].cost for i in operands), share)
