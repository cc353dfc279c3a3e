"""`semver`: precedence of version strings by Semantic Versioning 2.0.0, section 11.

Major, minor and patch compare as numbers; a pre-release comes before its release; pre-release identifiers
compare field by field, digits as numbers and before words, more fields after fewer; build metadata is
ignored. App versions often leave out parts, so minor and patch may be missing and are 0 then: "10.1" equals
"10.1.0". A string outside that grammar passes no test: "v1.2.3", "1.2.3.4" and "01.2" are not versions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt
from typing import Literal, TypeAlias

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Form, Matcher, TimelessOperator, on_strings
from engine.criteria.words import SYMBOLS

_NUMBER = r"(?:0|[1-9][0-9]*)"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
VERSION = re.compile(
    rf"({_NUMBER})(?:\.({_NUMBER})(?:\.({_NUMBER}))?)?"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)

RULE = "one to three numbers such as 10.1 or 1.2.3, then optionally -pre-release and +build"

SemverOp = Literal["equals", "greater_than", "greater_or_equal", "less_than", "less_or_equal"]

NumberKey: TypeAlias = tuple[int, str]
"""Sort key of digits without leading zeros: length, then text. Works for any size."""
Precedence: TypeAlias = tuple[tuple[NumberKey, ...], bool, tuple[tuple[bool, int, str], ...]]

_COMPARE: dict[SemverOp, Callable[[Precedence, Precedence], bool]] = {
    "equals": eq,
    "greater_than": gt,
    "greater_or_equal": ge,
    "less_than": lt,
    "less_or_equal": le,
}


class BadVersion(ValueError):
    """The operand is not a version."""


def precedence(version: str) -> Precedence | None:
    """A key that orders versions by precedence; None for an invalid version."""
    found = VERSION.fullmatch(version)
    if found is None:
        return None
    *core, before_release = found.groups()
    identifiers = before_release.split(".") if before_release else []
    return (
        tuple((len(part), part) for part in (part or "0" for part in core)),
        not identifiers,
        tuple((not part.isdigit(), len(part) if part.isdigit() else 0, part) for part in identifiers),
    )


VERSIONS = Form("versions", RULE, lambda text: VERSION.fullmatch(text) is not None)


class Semver(TimelessOperator, frozen=True, tag="semver"):
    """Precedence of version strings by Semantic Versioning 2.0.0, section 11. One to three numeric parts,
    missing ones are 0. An invalid version passes no test.
    """

    op: SemverOp
    version: str

    @property
    def field(self) -> str:
        """The field of the comparison inside `semver`."""
        return f"semver.{self.op}"

    @property
    def form(self) -> Form:
        """Strings must be versions."""
        return VERSIONS

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the operand is a version."""
        try:
            self.matcher()
        except BadVersion as error:
            faults.add(path, str(error))

    def matcher(self) -> Matcher:
        """Passes versions with that precedence. Raises BadVersion."""
        operand = precedence(self.version)
        if operand is None:
            raise BadVersion(f"{self.version!r} is not a version: expected {RULE}")
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
