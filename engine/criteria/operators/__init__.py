"""The operators: tests on a value, one file per family.

Each file holds all of a family: the structs that are stored and carried by plans, what is checked of their
operands, what they mean for one value, and how they read in words. Types never mix: the string "12" is not
the number 12, `true` is not 1, and an instant is not a number. A missing value passes no test (there is
nothing to ask). A list passes when some element passes.

To add an operator, write it in the file of its family: the struct goes into `Tests` there (and into
`Resolved`, when a plan carries it as it is). Then add its field to `ValueTest` in criteria.proto, a method to
`Testable` in the client, a paragraph to docs/criteria.md, and its meaning to the oracle and to the family's
fixture file. tests/engine/criteria/operators holds that none of these is missing. A new family is one more
file here, and one more line in `FAMILIES` and in each union.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import msgspec

from engine.criteria.faults import Faults
from engine.criteria.operators import (
    equality,
    existence,
    ordering,
    place,
    relative_time,
    text,
    version,
)
from engine.criteria.operators.base import STRINGS as STRINGS
from engine.criteria.operators.base import Matcher as Matcher
from engine.criteria.operators.equality import Equals as Equals
from engine.criteria.operators.equality import In as In
from engine.criteria.operators.existence import Exists as Exists
from engine.criteria.operators.ordering import Between as Between
from engine.criteria.operators.ordering import Compare as Compare
from engine.criteria.operators.ordering import CompareOp as CompareOp
from engine.criteria.operators.ordering import InstantRange as InstantRange
from engine.criteria.operators.ordering import NumberRange as NumberRange
from engine.criteria.operators.place import Near as Near
from engine.criteria.operators.relative_time import OlderThan as OlderThan
from engine.criteria.operators.relative_time import WithinLast as WithinLast
from engine.criteria.operators.text import Text as Text
from engine.criteria.operators.text import TextOp as TextOp
from engine.criteria.operators.version import Semver as Semver
from engine.criteria.operators.version import SemverOp as SemverOp
from engine.values import Kind

FAMILIES = (existence, equality, ordering, text, version, place, relative_time)

ValueTest: TypeAlias = (
    existence.Tests
    | equality.Tests
    | ordering.Tests
    | text.Tests
    | version.Tests
    | place.Tests
    | relative_time.Tests
)
"""A test as part of a criterion."""
ResolvedTest: TypeAlias = (
    existence.Resolved
    | equality.Resolved
    | ordering.Resolved
    | text.Resolved
    | version.Resolved
    | place.Resolved
)
"""A test with the clock taken out, as part of a plan."""
NumberTest: TypeAlias = equality.Tests | ordering.Tests
"""What an aggregate can be tested with: the operands are numbers."""

ANY_KIND = frozenset(Kind)
NUMBERS = frozenset({Kind.NUMBER})
TIMES = frozenset({Kind.TIME})

_PLURAL = {
    Kind.STRING: "strings",
    Kind.NUMBER: "numbers",
    Kind.BOOL: "booleans",
    Kind.TIME: "times",
    Kind.LIST: "lists",
}

MATCHERS_CACHED_MAX = 1_024

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[ResolvedTest] = msgspec.msgpack.Decoder(ResolvedTest)


def matcher_of(test: ResolvedTest) -> Matcher:
    """What decides `test`. Made once for equal tests.

    Raises ValueError (BadPattern, BadVersion) for an operand that validation refuses.
    """
    # Cached by its bytes, not by equality: Equals(1.0), Equals(1) and Equals(True) are one key to Python.
    return _matcher(_encoder.encode(test))


@functools.lru_cache(maxsize=MATCHERS_CACHED_MAX)
def _matcher(encoded: bytes) -> Matcher:
    return _decoder.decode(encoded).matcher()


def check_test(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind] = ANY_KIND) -> None:
    """Notes what is wrong with `test`, whose message is at `path`, asked of values of the kinds `subject`."""
    before = len(faults.violations)
    path = f"{path}.{test.field}"
    test.check(faults, path)
    if len(faults.violations) == before:
        _check_fits(faults, path, test, subject)


def check_number_test(faults: Faults, path: str, test: NumberTest) -> None:
    """Notes what is wrong with the test of an aggregate: every operand is a number."""
    strangers = [
        index
        for index, value in enumerate(test.values if isinstance(test, In) else ())
        if type(value) is not float
    ]
    for index in strangers:
        faults.add(f"{path}.in.values[{index}]", "does not fit: an aggregate is a number")
    if not strangers:
        check_test(faults, path, test, NUMBERS)


def _check_fits(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind]) -> None:
    # The clock moves ranges, never kinds, so any instant will do.
    kinds = matcher_of(test.resolve(0)).kinds
    if kinds and kinds.isdisjoint(subject):
        asked = " or ".join(_PLURAL[kind] for kind in sorted(kinds))
        given = " or ".join(_PLURAL[kind] for kind in sorted(subject))
        faults.add(path, f"does not fit: it is a test on {asked}, and what it tests are {given}")
