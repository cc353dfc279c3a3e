"""`greater_than`, `greater_or_equal`, `less_than`, `less_or_equal` and `between`: numbers, or times.

In a plan they become ranges: `NumberRange` and `InstantRange`, as do the relative tests on times.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import msgspec

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Matcher, Operator
from engine.criteria.ranges import Interval, TimeRange, hold_instant, hold_number
from engine.criteria.words import SYMBOLS, intervals_in_words, ranges_in_words, value_in_words
from engine.values import Kind, Micros, Value, kind_of

ORDERED = frozenset({Kind.NUMBER, Kind.TIME})
"""Kinds that have an order."""


class NumberRange(msgspec.Struct, frozen=True, tag_field="test", tag="number_range"):
    """A number in one of the intervals, which are sorted and disjoint."""

    intervals: tuple[Interval, ...]

    def matcher(self) -> Matcher:
        """Passes numbers in the intervals."""
        intervals = self.intervals

        def passes(value: Value) -> bool:
            return type(value) is float and hold_number(intervals, value)

        return Matcher(kinds=_kinds(Kind.NUMBER, bool(intervals)), passes=passes, numbers=intervals)

    def describe(self) -> str:
        """In words."""
        return intervals_in_words(self.intervals)


class InstantRange(msgspec.Struct, frozen=True, tag_field="test", tag="instant_range"):
    """A time in one of the ranges, which are sorted and disjoint."""

    ranges: tuple[TimeRange, ...]

    def matcher(self) -> Matcher:
        """Passes times in the ranges."""
        ranges = self.ranges

        def passes(value: Value) -> bool:
            return type(value) is int and hold_instant(ranges, value)

        return Matcher(kinds=_kinds(Kind.TIME, bool(ranges)), passes=passes, instants=ranges)

    def describe(self) -> str:
        """In words."""
        return ranges_in_words(self.ranges)


def _kinds(kind: Kind, possible: bool) -> frozenset[Kind]:
    return frozenset({kind}) if possible else frozenset()


CompareOp = Literal["greater_than", "greater_or_equal", "less_than", "less_or_equal"]


class Compare(Operator, frozen=True, tag="compare"):
    """Ordering on numbers or on times, by the kind of `operand` (a float or an int of microseconds)."""

    op: CompareOp
    operand: float | Micros

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """One field for each direction."""
        return get_args(CompareOp)

    @property
    def field(self) -> str:
        """The direction."""
        return self.op

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the operand is a number or a time."""
        _check_ordered(faults, path, self.operand)

    def resolve(self, as_of: Micros) -> NumberRange | InstantRange:
        """The half-line of numbers or of times."""
        if type(self.operand) is int:
            return InstantRange((_instants(self.op, self.operand),))
        return NumberRange((_numbers(self.op, self.operand),))

    def describe(self) -> str:
        """In words."""
        return f"{SYMBOLS[self.op]} {value_in_words(self.operand)}"


class Between(Operator, frozen=True, tag="between"):
    """low <= value <= high, both of one kind, number or time."""

    low: float | Micros
    high: float | Micros

    def check(self, faults: Faults, path: str) -> None:
        """Checks that both ends are of one kind and in order."""
        before = len(faults.violations)
        _check_ordered(faults, f"{path}.low", self.low)
        _check_ordered(faults, f"{path}.high", self.high)
        if len(faults.violations) > before:
            return
        if kind_of(self.low) is not kind_of(self.high):
            faults.add(path, "low and high must both be numbers or both be times")
        elif self.low > self.high:
            faults.add(path, "is empty: low is greater than high")

    def resolve(self, as_of: Micros) -> NumberRange | InstantRange:
        """The range of numbers or of times."""
        if type(self.low) is int and type(self.high) is int:
            return InstantRange((TimeRange(self.low, self.high + 1),))
        return NumberRange((Interval(low=self.low, high=self.high),))

    def describe(self) -> str:
        """In words."""
        return f"between {value_in_words(self.low)} and {value_in_words(self.high)}"


Tests: TypeAlias = Compare | Between
Resolved: TypeAlias = NumberRange | InstantRange


def _check_ordered(faults: Faults, path: str, operand: Value) -> None:
    if kind_of(operand) not in ORDERED:
        faults.add(path, "must be a number or a time")
    else:
        faults.check_value(path, operand)


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
