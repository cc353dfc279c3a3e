"""`exists`, `equals` and `in`: the tests that hold on every kind of value.

Kinds never mix, which Python's own equality does: there 1.0 == 1 == True, as list elements and as keys of a
set too. So operands are sorted by kind first and compared within a kind only.

`equals` of a list is true on a list with the same elements in the same order; `equals` of a string is true on
a list with such an element. `ignore_case` folds strings, alone or in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from engine.criteria.matching.matcher import STRINGS, Matcher
from engine.criteria.model import Equals, In
from engine.criteria.ranges import ALL_NUMBERS, ALL_TIME, Interval, TimeRange, merged_intervals, merged_ranges
from engine.values import Kind, Value, kind_of

Fold = Callable[[str], str]

EXISTS = Matcher(
    kinds=frozenset(Kind),
    passes=lambda value: value != (),
    numbers=(ALL_NUMBERS,),
    instants=(ALL_TIME,),
)
"""There is a value; on a list, at least one element."""


def equals(test: Equals) -> Matcher:
    """Same kind and same value."""
    return _equal_to_any((test.value,), test.ignore_case)


def is_in(test: In) -> Matcher:
    """Equal to one of the values."""
    return _equal_to_any(test.values, test.ignore_case)


def _equal_to_any(operands: Iterable[Value], ignore_case: bool) -> Matcher:
    fold: Fold = str.casefold if ignore_case else str
    by_kind: dict[Kind, set[Value]] = {kind: set() for kind in Kind}
    for operand in operands:
        by_kind[kind_of(operand)].add(_folded(operand, fold))
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
