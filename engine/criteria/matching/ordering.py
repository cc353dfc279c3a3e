"""Tests that are ranges: of numbers, or of instants."""

from __future__ import annotations

from engine.criteria.matching.matcher import Matcher
from engine.criteria.ranges import hold_instant, hold_number
from engine.criteria.resolved import InstantRange, NumberRange
from engine.values import Kind, Value


def number_range(test: NumberRange) -> Matcher:
    """A number in one of the intervals."""
    intervals = test.intervals

    def passes(value: Value) -> bool:
        return type(value) is float and hold_number(intervals, value)

    return Matcher(kinds=_kinds(Kind.NUMBER, bool(intervals)), passes=passes, numbers=intervals)


def instant_range(test: InstantRange) -> Matcher:
    """A time in one of the ranges."""
    ranges = test.ranges

    def passes(value: Value) -> bool:
        return type(value) is int and hold_instant(ranges, value)

    return Matcher(kinds=_kinds(Kind.TIME, bool(ranges)), passes=passes, instants=ranges)


def _kinds(kind: Kind, possible: bool) -> frozenset[Kind]:
    return frozenset({kind}) if possible else frozenset()
