"""`exists`: the value is present; a list has at least one element."""

from __future__ import annotations

from typing import TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Matcher, TimelessOperator
from engine.criteria.ranges import ALL_NUMBERS, ALL_TIME
from engine.values import Kind

_ANY_VALUE = Matcher(
    kinds=frozenset(Kind),
    passes=lambda value: value != (),
    numbers=(ALL_NUMBERS,),
    instants=(ALL_TIME,),
)


class Exists(TimelessOperator, frozen=True, tag="exists"):
    """The value is present; a list has at least one element."""

    def check(self, faults: Faults, path: str) -> None:
        """Has no operands to check."""

    def matcher(self) -> Matcher:
        """Passes every value but the empty list."""
        return _ANY_VALUE

    def describe(self) -> str:
        """In words."""
        return "exists"


Tests: TypeAlias = Exists
Resolved: TypeAlias = Exists
