"""`within_last` and `older_than`: times relative to now. In a plan they become ranges of instants."""

from __future__ import annotations

from typing import TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Operator
from engine.criteria.operators.ordering import InstantRange
from engine.criteria.ranges import TimeRange
from engine.criteria.words import duration_in_words
from engine.values import Micros


class WithinLast(Operator, frozen=True, tag="within_last"):
    """A time in (now - duration, now]."""

    duration: Micros

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the duration is longer than zero."""
        faults.check_positive(path, self.duration)

    def resolve(self, as_of: Micros) -> InstantRange:
        """The range at `as_of`."""
        return InstantRange((last_range(self.duration, as_of),))

    def describe(self) -> str:
        """In words."""
        return f"in the last {duration_in_words(self.duration)}"


class OlderThan(Operator, frozen=True, tag="older_than"):
    """A time up to and including now - duration."""

    duration: Micros

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the duration is not negative."""
        if self.duration < 0:
            faults.add(path, "must not be negative")

    def resolve(self, as_of: Micros) -> InstantRange:
        """The range at `as_of`."""
        return InstantRange((TimeRange(None, as_of - self.duration + 1),))

    def describe(self) -> str:
        """In words."""
        return f"{duration_in_words(self.duration)} ago or longer"


Tests: TypeAlias = WithinLast | OlderThan


def last_range(duration: Micros, as_of: Micros) -> TimeRange:
    """(now - duration, now], in whole microseconds."""
    return TimeRange(as_of - duration + 1, as_of + 1)
