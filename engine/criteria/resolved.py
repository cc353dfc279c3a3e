"""Value tests with the clock taken out: what a plan carries and `matching` decides.

Comparisons have become intervals of numbers or ranges of instants; `within_last` and `older_than` are ranges
of instants as well. The other tests are those of the model, unchanged.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from engine.criteria.model import Equals, Exists, In, Near, Semver, Text
from engine.criteria.ranges import Interval, TimeRange


class NumberRange(msgspec.Struct, frozen=True, tag_field="test", tag="number_range"):
    """A number in one of the intervals, which are sorted and disjoint."""

    intervals: tuple[Interval, ...]


class InstantRange(msgspec.Struct, frozen=True, tag_field="test", tag="instant_range"):
    """A time in one of the ranges, which are sorted and disjoint."""

    ranges: tuple[TimeRange, ...]


ResolvedTest: TypeAlias = Exists | Equals | In | Text | Semver | Near | NumberRange | InstantRange
"""A value test with the clock taken out: comparisons became ranges of numbers or of instants. Equals and In
stay for every kind.
"""
