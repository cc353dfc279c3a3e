"""Resolves the clock in tests and conditions: from `engine.criteria.model` to the form that plans carry."""

from __future__ import annotations

from engine.criteria.conditions import WhereAttribute, mapped
from engine.criteria.model import (
    NumberTest,
    Where,
)
from engine.criteria.operators import matcher_of
from engine.plan.model import (
    Interval,
    RowFilter,
)
from engine.values import Micros

MORE_THAN_ZERO = (Interval(low=0.0, low_included=False),)


def resolve_number_test(test: NumberTest | None) -> tuple[Interval, ...]:
    """The numbers that pass the test of an aggregate; None is `greater_than 0`."""
    if test is None:
        return MORE_THAN_ZERO
    # Numbers do not depend on the clock, so any instant works.
    return matcher_of(test.resolve(0)).numbers


def resolve_where(where: Where, as_of: Micros) -> RowFilter:
    """The condition on one event at `as_of`."""
    return mapped(where, lambda each: WhereAttribute(key=each.key, test=each.test.resolve(as_of)))
