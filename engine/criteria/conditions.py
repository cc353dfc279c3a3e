"""Conditions on one event: and, or and not over tests on its attributes.

One model in three stages: a criterion names attributes and holds tests of the language, a plan holds tests
with the clock resolved, and a backend may replace names by numbers. `mapped` converts one stage into the
next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeAlias, TypeVar, assert_never

import msgspec

from engine.criteria.words import quoted

Key_co = TypeVar("Key_co", covariant=True)
Test_co = TypeVar("Test_co", covariant=True)
Key = TypeVar("Key")
Test = TypeVar("Test")
OtherKey = TypeVar("OtherKey")
OtherTest = TypeVar("OtherTest")


class _Condition(msgspec.Struct, frozen=True, kw_only=True, tag_field="node", omit_defaults=True):
    pass


class WhereAll(_Condition, Generic[Key_co, Test_co], frozen=True, tag="all_of", kw_only=True):
    """Every condition holds for the same event; without conditions = every event."""

    conditions: tuple[Condition[Key_co, Test_co], ...] = ()


class WhereAny(_Condition, Generic[Key_co, Test_co], frozen=True, tag="any_of", kw_only=True):
    """Some condition holds; without conditions = no event."""

    conditions: tuple[Condition[Key_co, Test_co], ...] = ()


class WhereNot(_Condition, Generic[Key_co, Test_co], frozen=True, tag="not", kw_only=True):
    """The condition does not hold, missing attribute included."""

    condition: Condition[Key_co, Test_co]


class WhereAttribute(_Condition, Generic[Key_co, Test_co], frozen=True, tag="attribute", kw_only=True):
    """The event's own attribute passes the test; an event without it never does."""

    key: Key_co
    test: Test_co


Condition: TypeAlias = (
    WhereAll[Key_co, Test_co]
    | WhereAny[Key_co, Test_co]
    | WhereNot[Key_co, Test_co]
    | WhereAttribute[Key_co, Test_co]
)


def mapped(
    condition: Condition[Key, Test],
    change: Callable[[WhereAttribute[Key, Test]], WhereAttribute[OtherKey, OtherTest]],
) -> Condition[OtherKey, OtherTest]:
    """The same condition with each test replaced by `change` of it."""
    match condition:
        case WhereAll():
            return WhereAll(conditions=tuple(mapped(part, change) for part in condition.conditions))
        case WhereAny():
            return WhereAny(conditions=tuple(mapped(part, change) for part in condition.conditions))
        case WhereNot():
            return WhereNot(condition=mapped(condition.condition, change))
        case WhereAttribute():
            return change(condition)
        case _:
            assert_never(condition)


def tests_in(condition: Condition[Key, Test] | None) -> Iterator[WhereAttribute[Key, Test]]:
    """The tests in a condition, in reading order; empty without a condition."""
    match condition:
        case WhereAll() | WhereAny():
            for part in condition.conditions:
                yield from tests_in(part)
        case WhereNot():
            yield from tests_in(condition.condition)
        case WhereAttribute():
            yield condition
        case None:
            return
        case _:
            assert_never(condition)


class Describable(Protocol):
    """A test with a description."""

    def describe(self) -> str:
        """Description, to follow the name of the tested value."""
        ...


AnyTest = TypeVar("AnyTest", bound=Describable)


def condition_in_words(condition: Condition[str, AnyTest]) -> str:
    """The condition in words."""
    match condition:
        case WhereAll():
            return _joined(condition.conditions, " and ", "anything")
        case WhereAny():
            return _joined(condition.conditions, " or ", "nothing")
        case WhereNot():
            return f"not {condition_in_words(condition.condition)}"
        case WhereAttribute():
            return f"{quoted(condition.key)} {condition.test.describe()}"
        case _:
            assert_never(condition)


def _joined(parts: tuple[Condition[str, AnyTest], ...], word: str, none: str) -> str:
    return f"({word.join(map(condition_in_words, parts))})" if parts else none
