"""The parts of every operator, and its matcher.

An operator is a struct with its meaning beside it. As part of a criterion it has:

    fields    class method: the fields of the proto message `ValueTest` it represents
    field     the one that this instance uses, as in the path of a fault
    check     checks its operands
    resolve   its clock-independent form, which a plan can carry
    describe  its description, to follow the name of the tested value

A resolved test has `matcher` and `describe`. Most operators are both, since they do not depend on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self, TypeAlias

import msgspec

from engine.criteria.ranges import Interval, TimeRange
from engine.values import Kind, Micros, Value

STRINGS = frozenset({Kind.STRING, Kind.LIST})
"""The kinds that a test on strings can pass: a string, and a list with an element that passes."""


IGNORE_CASE = "ignore_case"
"""The field of the operators, and of `ValueTest`, that folds case."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a test reads strings as; it passes no other string."""

    plural: str
    """Its name, as in "versions"."""
    rule: str
    """How such a string is written."""
    fits: Callable[[str], bool]


class Operator(msgspec.Struct, frozen=True, tag_field="test", omit_defaults=True):
    """Base of all operators. The tag is stored and names the field of the proto message."""

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The fields of `ValueTest` that this struct represents."""
        return (str(cls.__struct_config__.tag),)

    @property
    def field(self) -> str:
        """The field of `ValueTest` for this test, and the field inside it when that is a oneof."""
        return self.fields()[0]

    @property
    def form(self) -> Form | None:
        """What strings must be; None: any string may pass."""
        return None


class TimelessOperator(Operator, frozen=True):
    """An operator that means the same at every instant."""

    def resolve(self, as_of: Micros) -> Self:
        """The test itself."""
        return self


JoinedSearch: TypeAlias = Callable[[bytes, int, int], Iterator[tuple[int, int]]]
"""Where each match in strings that are joined by line breaks starts and ends, in order, one of a string at
most. They are searched from the start of one string to the end of one. No string has a line break of its own.
"""

Texts: TypeAlias = tuple[bytes, bytes]
"""The strings from one to another, both included, in the order of their UTF-8."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Matcher:
    """Decides one test.

    `passes` decides any single value. `numbers` and `instants` say the same for whole columns: sorted,
    disjoint intervals of doubles and half-open ranges of instants that pass, empty when no number (no time)
    does.
    """

    kinds: frozenset[Kind]
    """Kinds that can pass the test; values of other kinds never do."""
    passes: Callable[[Value], bool]
    numbers: tuple[Interval, ...] = ()
    instants: tuple[TimeRange, ...] = ()
    literal: bytes = b""
    """UTF-8 that every passing string contains, so that an index of strings can skip the others."""
    is_literal: bool = False
    """Whether every string that contains the literal passes."""
    between: Texts | None = None
    """Every passing string is one of these; None: any string may pass."""
    program_bytes: int = 0
    """Memory of compiled expressions, at most."""
    joined: JoinedSearch | None = None
    """Finds strings that pass among many that are joined. Every string that passes has a match that starts in
    it, and a match that ends in the string it starts in means that this one passes.
    """


def on_strings(
    passes_text: Callable[[str], bool],
    literal: str = "",
    program_bytes: int = 0,
    joined: JoinedSearch | None = None,
    *,
    is_literal: bool = False,
    between: Texts | None = None,
) -> Matcher:
    """A test on strings: passes a matching string, and a list with a matching element."""

    def passes(value: Value) -> bool:
        if type(value) is str:
            return passes_text(value)
        return type(value) is tuple and any(map(passes_text, value))

    return Matcher(
        STRINGS,
        passes,
        literal=literal.encode(),
        is_literal=is_literal,
        between=between,
        program_bytes=program_bytes,
        joined=joined,
    )
