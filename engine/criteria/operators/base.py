"""What every operator consists of, and the matcher that it becomes.

An operator is a struct with its meaning beside it. As part of a criterion it has:

    fields    class method: the fields of the proto message `ValueTest` that it stands for
    field     which of them this one is, as in a fault's path
    check     notes what is wrong with its operands
    resolve   itself with the clock taken out: a test that a plan can carry
    describe  itself in words, after the name of what is tested

A resolved test has `matcher` and `describe`. Most operators are both, since the clock has no say in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import msgspec

from engine.criteria.ranges import Interval, TimeRange
from engine.values import Kind, Micros, Value

STRINGS = frozenset({Kind.STRING, Kind.LIST})
"""The kinds a test on strings can be true on: a string, and a list of which some element passes."""


class Operator(msgspec.Struct, frozen=True, tag_field="test", omit_defaults=True):
    """Base of all operators. The tag is stored and names the field of the proto message."""

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The fields of `ValueTest` that this struct stands for."""
        return (str(cls.__struct_config__.tag),)

    @property
    def field(self) -> str:
        """The field of `ValueTest` that this test is in, and the one inside it when that is a choice."""
        return self.fields()[0]


class TimelessOperator(Operator, frozen=True):
    """An operator that means the same at every instant."""

    def resolve(self, as_of: Micros) -> Self:
        """The test itself."""
        return self


@dataclass(frozen=True, slots=True)
class Matcher:
    """Decides one test.

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
    """UTF-8 that every string which passes contains, so that an index of strings can skip the others."""


def on_strings(passes_text: Callable[[str], bool], literal: str = "") -> Matcher:
    """A test on strings: true on a string that passes and on a list of which some element passes."""

    def passes(value: Value) -> bool:
        if type(value) is str:
            return passes_text(value)
        return type(value) is tuple and any(map(passes_text, value))

    return Matcher(kinds=STRINGS, passes=passes, literal=literal.encode())
