"""`equals` and `in`: the same kind and the same value.

Kinds never mix. In Python 1.0 == 1 == True, also as list elements and keys of a set. So operands are sorted
by kind first and compared within a kind only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import IGNORE_CASE, STRINGS, Matcher, TimelessOperator
from engine.criteria.ranges import Interval, TimeRange, merged_intervals, merged_ranges
from engine.criteria.words import ignoring_case, value_in_words, values_in_words
from engine.values import Kind, Value, kind_of

Fold = Callable[[str], str]

CASE_WITHOUT_STRINGS = "means nothing here: no string to compare with; leave it out"


class Equals(TimelessOperator, frozen=True, tag="equals"):
    """Same kind and same value. `ignore_case` folds case (Unicode) of strings, alone or in a list.

    A string equals a list that has an equal element; a list equals a list with the same elements in the same
    order.
    """

    value: Value
    ignore_case: bool = False

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the value could be stored, and that it has case where case is ignored."""
        faults.check_value(path, self.value)
        _check_case(faults, path, self.ignore_case, (self.value,))

    def matcher(self) -> Matcher:
        """Passes values equal to the operand."""
        return _equal_to_any((self.value,), self.ignore_case)

    def describe(self) -> str:
        """In words."""
        return f"= {value_in_words(self.value)}{ignoring_case(self.ignore_case)}"


class In(TimelessOperator, frozen=True, tag="in"):
    """Equal to one of `values`, of any kinds; without values nothing passes."""

    values: tuple[Value, ...]
    ignore_case: bool = False

    def check(self, faults: Faults, path: str) -> None:
        """Checks that there are at most `in_values_max` values, each of which could be stored, and that one
        has case where case is ignored.
        """
        values_max = faults.limits.in_values_max
        if len(self.values) > values_max:
            faults.add(path, f"has {len(self.values)} values; at most {values_max} are allowed")
            return
        faults.count_values(len(self.values))
        for index, value in enumerate(self.values):
            faults.check_value(f"{path}.values[{index}]", value)
        _check_case(faults, path, self.ignore_case, self.values)

    def matcher(self) -> Matcher:
        """Passes values equal to one of the operands."""
        return _equal_to_any(self.values, self.ignore_case)

    def describe(self) -> str:
        """In words."""
        return f"in {values_in_words(self.values)}{ignoring_case(self.ignore_case)}"


Tests: TypeAlias = Equals | In
Resolved: TypeAlias = Equals | In


def _check_case(faults: Faults, path: str, ignore_case: bool, operands: tuple[Value, ...]) -> None:
    # Nothing passes an empty `in`, with or without case.
    if ignore_case and operands and STRINGS.isdisjoint(map(kind_of, operands)):
        faults.add(f"{path.rpartition('.')[0]}.{IGNORE_CASE}", CASE_WITHOUT_STRINGS)


def equal_kinds(test: Equals | In) -> frozenset[Kind]:
    """The kinds of value that can pass: those of the operands, and lists that may have such a string."""
    kinds = frozenset(map(kind_of, (test.value,) if isinstance(test, Equals) else test.values))
    return kinds | STRINGS if Kind.STRING in kinds else kinds


def _equal_to_any(operands: Iterable[Value], ignore_case: bool) -> Matcher:
    fold: Fold = str.casefold if ignore_case else str
    by_kind: dict[Kind, set[Value]] = {kind: set() for kind in Kind}
    for operand in operands:
        by_kind[kind_of(operand)].add(_folded(operand, fold) if ignore_case else operand)
    accepted = {kind: frozenset(values) for kind, values in by_kind.items()}
    strings = accepted[Kind.STRING]

    def passes(value: Value) -> bool:
        kind = kind_of(value)
        folded = _folded(value, fold)
        if folded in accepted[kind]:
            return True
        return type(folded) is tuple and not strings.isdisjoint(folded)

    kinds = {kind for kind, values in accepted.items() if values}
    numbers = (float(x) for x in accepted[Kind.NUMBER] if type(x) is float)
    times = (t for t in accepted[Kind.TIME] if type(t) is int)
    return Matcher(
        kinds=frozenset(kinds | STRINGS) if strings else frozenset(kinds),
        passes=passes,
        numbers=merged_intervals(Interval(low=x, high=x) for x in numbers),
        instants=merged_ranges(TimeRange(start=t, end=t + 1) for t in times),
    )


def _folded(value: Value, fold: Fold) -> Value:
    if type(value) is str:
        return fold(value)
    if type(value) is tuple:
        return tuple(map(fold, value))
    return value
