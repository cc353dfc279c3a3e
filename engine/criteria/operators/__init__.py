"""The operators: tests on a value, one file per family.

Each file contains all of a family: the structs stored in criteria and carried by plans, the checks of their
operands, their meaning for one value, and their description. Types never mix: the string "12" is not the
number 12, `true` is not 1, and an instant is not a number. A missing value passes no test. A list passes when
some element passes.

CONTRIBUTING.md lists what a new operator needs.
"""

from __future__ import annotations

from typing import TypeAlias
from weakref import WeakValueDictionary

import msgspec

from engine.bounded_cache import BoundedCache, held_bytes
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
from engine.criteria.words import kinds_in_words
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
"""A test as part of a plan, independent of the clock."""
NumberTest: TypeAlias = equality.Tests | ordering.Tests
"""Tests for aggregates: the operands are numbers."""

ANY_KIND = frozenset(Kind)
NUMBERS = frozenset({Kind.NUMBER})
TIMES = frozenset({Kind.TIME})

MATCHER_CACHE_BYTES_MAX = 32 << 20
"""Matchers kept for equal tests, in bytes of memory."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_matchers: BoundedCache[bytes, Matcher] = BoundedCache("matchers", MATCHER_CACHE_BYTES_MAX)
_held: WeakValueDictionary[bytes, Matcher] = WeakValueDictionary()
"""Matchers in use, whether or not the cache still has them."""
_decoder: msgspec.msgpack.Decoder[ResolvedTest] = msgspec.msgpack.Decoder(ResolvedTest)


def matcher_of(test: ResolvedTest) -> Matcher:
    """The matcher of `test`, one for equal tests while it is cached or used.

    Raises ValueError (BadPattern, BadVersion) for an operand that validation rejects.
    """
    # Cached by encoding, not by equality: to Python, Equals(1.0), Equals(1) and Equals(True) are equal keys.
    encoded = _encoder.encode(test)
    found = _matchers.get(encoded)
    if found is None:
        found = _held.get(encoded)
        if found is None:
            found = _held[encoded] = _decoder.decode(encoded).matcher()
        _matchers.put(encoded, found, held_bytes(len(encoded), test) + found.program_bytes)
    return found


def kinds_passing(test: ResolvedTest) -> frozenset[Kind]:
    """The kinds of value that can pass. Cheaper than a matcher, which may hold thousands of values or a
    compiled expression.
    """
    if isinstance(test, Equals | In):
        return equality.equal_kinds(test)
    return STRINGS if isinstance(test, Text | Semver | Near) else matcher_of(test).kinds


def kinds_tested(test: ValueTest) -> frozenset[Kind]:
    """The kinds of value that can pass."""
    # The clock moves ranges, never kinds, so any instant works.
    return kinds_passing(test.resolve(0))


def check_test(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind] = ANY_KIND) -> None:
    """Checks `test`, whose message is at `path`, on values of the kinds `subject`."""
    before = len(faults.violations)
    path = f"{path}.{test.field}"
    test.check(faults, path)
    if len(faults.violations) == before:
        _check_fits(faults, path, test, subject)


def check_number_test(faults: Faults, path: str, test: NumberTest) -> None:
    """Checks the test of an aggregate: every operand is a number."""
    strangers = [
        index
        for index, value in enumerate(test.values if isinstance(test, In) else ())
        if type(value) is not float
    ]
    for index in strangers:
        faults.add(f"{path}.in.values[{index}]", "must be a number, because the aggregate is one")
    if not strangers:
        check_test(faults, path, test, NUMBERS)


def _check_fits(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind]) -> None:
    kinds = kinds_tested(test)
    if kinds and kinds.isdisjoint(subject):
        asked, given = kinds_in_words(kinds, "or"), kinds_in_words(subject, "or")
        faults.add(path, f"does not fit: it tests {asked}, but the values are {given}")
