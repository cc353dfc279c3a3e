"""`semver`: precedence of version strings after Semantic Versioning 2.0.0, section 11.

Major, minor and patch compare as numbers; a pre-release comes before its release; pre-release identifiers
compare field by field, digits as numbers and before words, more fields after fewer; build metadata counts for
nothing. A string that is no version of that grammar passes no test: "1.2", "v1.2.3" and "01.2.3" are none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt
from typing import Literal, TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Matcher, TimelessOperator, on_strings
from engine.criteria.words import SYMBOLS

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)

SemverOp = Literal["equals", "greater_than", "greater_or_equal", "less_than", "less_or_equal"]

NumberKey: TypeAlias = tuple[int, str]
"""Digits without leading zeros order as numbers by length, then by text; no size is too large."""
Precedence: TypeAlias = tuple[tuple[NumberKey, ...], bool, tuple[tuple[bool, int, str], ...]]

_COMPARE: dict[SemverOp, Callable[[Precedence, Precedence], bool]] = {
    "equals": eq,
    "greater_than": gt,
    "greater_or_equal": ge,
    "less_than": lt,
    "less_or_equal": le,
}


class BadVersion(ValueError):
    """The operand is no version of Semantic Versioning 2.0.0."""


def precedence(version: str) -> Precedence | None:
    """A key that orders versions by precedence; None for a string that is no version."""
    found = _VERSION.fullmatch(version)
    if found is None:
        return None
    *core, before_release = found.groups()
    identifiers = before_release.split(".") if before_release else []
    return (
        tuple((len(part), part) for part in core),
        not identifiers,
        tuple((not part.isdigit(), len(part) if part.isdigit() else 0, part) for part in identifiers),
    )


class Semver(TimelessOperator, frozen=True, tag="semver"):
    """Precedence of version strings after Semantic Versioning 2.0.0, section 11; a string that is no version
    passes no test.
    """

    op: SemverOp
    version: str

    @property
    def field(self) -> str:
        """The comparison, inside `semver`."""
        return f"semver.{self.op}"

    def check(self, faults: Faults, path: str) -> None:
        """The operand has to be a version."""
        try:
            self.matcher()
        except BadVersion as error:
            faults.add(path, str(error))

    def matcher(self) -> Matcher:
        """Passes versions of that precedence. Raises BadVersion."""
        operand = precedence(self.version)
        if operand is None:
            raise BadVersion(
                f"{self.version!r} is not a version of the form 1.2.3 (Semantic Versioning 2.0.0)"
            )
        wanted = operand
        compare = _COMPARE[self.op]

        def passes(value: str) -> bool:
            found = precedence(value)
            return found is not None and compare(found, wanted)

        return on_strings(passes)

    def describe(self) -> str:
        """In words."""
        return f"is a version {SYMBOLS[self.op]} {self.version}"


Tests: TypeAlias = Semver
Resolved: TypeAlias = Semver
