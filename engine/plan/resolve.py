"""Tests and conditions with the clock taken out: what `engine.criteria.model` says becomes what a plan
carries.
"""

from __future__ import annotations

from engine.criteria.matching import compile_test
from engine.criteria.model import (
    Aggregate,
    Between,
    Compare,
    CompareOp,
    Equals,
    Exists,
    In,
    Near,
    NumberTest,
    OlderThan,
    Semver,
    Text,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.plan.model import (
    InstantRange,
    Interval,
    NumberRange,
    ResolvedTest,
    RowFilter,
    RowsAll,
    RowsAny,
    RowsNot,
    RowTest,
    TimeRange,
)
from engine.plan.windows import last_range, older_range
from engine.values import Micros

ZERO_WITHOUT_EVENTS = frozenset({Aggregate.COUNT, Aggregate.DISTINCT_DAYS, Aggregate.DISTINCT, Aggregate.SUM})
"""Aggregates that are 0 when no event takes part; the others are undefined then and pass no test."""

MORE_THAN_ZERO = (Interval(low=0.0, low_included=False),)


def resolve_test(test: ValueTest, as_of: Micros) -> ResolvedTest:
    """The test as it stands at `as_of`."""
    match test:
        case Compare():
            return _compare(test)
        case Between():
            if type(test.low) is int and type(test.high) is int:
                return InstantRange((TimeRange(test.low, test.high + 1),))
            return NumberRange((Interval(low=test.low, high=test.high),))
        case WithinLast():
            return InstantRange((last_range(test.duration, as_of),))
        case OlderThan():
            return InstantRange((older_range(test.duration, as_of),))
        case Exists() | Equals() | In() | Text() | Semver() | Near():
            return test


def _compare(test: Compare) -> ResolvedTest:
    operand = test.operand
    if type(operand) is int:
        return InstantRange((_instants(test.op, operand),))
    return NumberRange((_numbers(test.op, operand),))


def _instants(op: CompareOp, operand: Micros) -> TimeRange:
    match op:
        case "greater_than":
            return TimeRange(start=operand + 1)
        case "greater_or_equal":
            return TimeRange(start=operand)
        case "less_than":
            return TimeRange(end=operand)
        case "less_or_equal":
            return TimeRange(end=operand + 1)


def _numbers(op: CompareOp, operand: float) -> Interval:
    match op:
        case "greater_than":
            return Interval(low=operand, low_included=False)
        case "greater_or_equal":
            return Interval(low=operand)
        case "less_than":
            return Interval(high=operand, high_included=False)
        case "less_or_equal":
            return Interval(high=operand)


def resolve_number_test(test: NumberTest | None) -> tuple[Interval, ...]:
    """The numbers that pass the test of an aggregate; None is `greater_than 0`."""
    if test is None:
        return MORE_THAN_ZERO
    # The clock has no say in numbers, so any instant will do.
    return compile_test(resolve_test(test, 0)).numbers


def resolve_where(where: Where, as_of: Micros) -> RowFilter:
    """The condition on one event as it stands at `as_of`."""
    match where:
        case WhereAll():
            return RowsAll(conditions=tuple(resolve_where(part, as_of) for part in where.conditions))
        case WhereAny():
            return RowsAny(conditions=tuple(resolve_where(part, as_of) for part in where.conditions))
        case WhereNot():
            return RowsNot(condition=resolve_where(where.condition, as_of))
        case WhereAttribute():
            return RowTest(key=where.key, test=resolve_test(where.test, as_of))
