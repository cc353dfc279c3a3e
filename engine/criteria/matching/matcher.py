"""What every compiled test looks like from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.criteria.ranges import Interval, TimeRange
from engine.values import Kind, Value

STRINGS = frozenset({Kind.STRING, Kind.LIST})
"""The kinds a test on strings can be true on: a string, and a list of which some element passes."""


@dataclass(frozen=True, slots=True)
class Matcher:
    """A compiled value test.

    `passes` decides any single value; `numbers` and `instants` say the same about columns of numbers and of
    times, for code that decides many at once: sorted, disjoint intervals of doubles and half-open ranges of
    instants that pass, empty when no number (no time) does.
    """

    kinds: frozenset[Kind]
    """Kinds on which the test can be true; values of others never pass."""
    passes: Callable[[Value], bool]
    numbers: tuple[Interval, ...] = ()
    instants: tuple[TimeRange, ...] = ()
    literal: bytes = b""
    """UTF-8 that every string which passes contains: who holds many strings need not ask the others."""


def on_strings(passes_text: Callable[[str], bool], literal: str = "") -> Matcher:
    """A test on strings: true on a string that passes and on a list of which some element passes."""

    def passes(value: Value) -> bool:
        if type(value) is str:
            return passes_text(value)
        return type(value) is tuple and any(map(passes_text, value))

    return Matcher(kinds=STRINGS, passes=passes, literal=literal.encode())
