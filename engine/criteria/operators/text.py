"""`contains`, `starts_with`, `ends_with`, `glob` and `matches`: the tests on strings.

With `ignore_case` both sides are folded (Unicode case folding, `str.casefold`, so that "STRASSE" and "straße"
are the same). `matches` is the exception: RE2 has no folding of that kind, it is compiled case-insensitively
instead, which pairs single characters only.

`glob` is about characters of the string after folding: `?` is any one character, `*` any number of them, line
breaks included; everything else stands for itself, there is no escape and there are no classes. It runs on
RE2, as `matches` does, so that no pattern takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import re2

from engine.criteria.faults import Faults
from engine.criteria.operators.base import Matcher, TimelessOperator, on_strings
from engine.criteria.words import ignoring_case, quoted

_GLOB_WILDCARDS = {"*": "(?s:.*)", "?": "(?s:.)"}
_GLOB_WILDCARD = re.compile(r"[*?]")

TextTest = Callable[[str, str], bool]


class BadPattern(ValueError):
    """RE2 refuses the expression; the message is RE2's own."""


TextOp = Literal["contains", "starts_with", "ends_with", "glob", "matches"]


class Text(TimelessOperator, frozen=True, tag="text"):
    """A test on strings. `glob` matches the whole string, `matches` is an unanchored RE2 expression.

    `ignore_case` folds both sides (Unicode); `matches` is compiled case-insensitively instead.
    """

    op: TextOp
    pattern: str
    ignore_case: bool = False

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """One field for each way to look at a string."""
        return get_args(TextOp)

    @property
    def field(self) -> str:
        """The way to look at the string."""
        return self.op

    def check(self, faults: Faults, path: str) -> None:
        """The pattern must not be too long, and an expression has to be one of RE2."""
        faults.check_string(path, self.pattern)
        try:
            self.matcher()
        except BadPattern as error:
            faults.add(path, f"is not an RE2 expression: {error}")

    def matcher(self) -> Matcher:
        """Passes strings that fit the pattern. Raises BadPattern."""
        match self.op:
            case "contains":
                return _folding(self, lambda value, pattern: pattern in value)
            case "starts_with":
                return _folding(self, str.startswith)
            case "ends_with":
                return _folding(self, str.endswith)
            case "glob":
                return _glob(self)
            case "matches":
                found = _searcher(self.pattern, ignore_case=self.ignore_case)
                return on_strings(lambda value: found(value.encode()))

    def describe(self) -> str:
        """In words."""
        return f"{self.op.replace('_', ' ')} {quoted(self.pattern)}{ignoring_case(self.ignore_case)}"


Tests: TypeAlias = Text
Resolved: TypeAlias = Text


def _folding(test: Text, passes: TextTest) -> Matcher:
    if not test.ignore_case:
        return on_strings(lambda value: passes(value, test.pattern), literal=test.pattern)
    pattern = test.pattern.casefold()
    return on_strings(lambda value: passes(value.casefold(), pattern))


def _glob(test: Text) -> Matcher:
    pattern = test.pattern.casefold() if test.ignore_case else test.pattern
    found = _searcher(glob_as_re2(pattern), ignore_case=False)
    if test.ignore_case:
        return on_strings(lambda value: found(value.casefold().encode()))
    return on_strings(lambda value: found(value.encode()), literal=_longest_literal(pattern))


def _longest_literal(glob: str) -> str:
    return max(_GLOB_WILDCARD.split(glob), key=len)


def glob_as_re2(pattern: str) -> str:
    """The RE2 expression that matches the same whole strings as the glob.

    >>> glob_as_re2("a*.b?")
    '\\\\Aa(?s:.*)\\\\.b(?s:.)\\\\z'
    """
    body = "".join(_GLOB_WILDCARDS.get(part) or re2.escape(part) for part in pattern)
    return rf"\A{body}\z"


def _searcher(pattern: str, *, ignore_case: bool) -> Callable[[bytes], bool]:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.case_sensitive = not ignore_case
    try:
        # Compiled from bytes, RE2's wrapper does not translate positions back into characters.
        search = re2.compile(pattern.encode(), options=options).search
    except re2.error as error:
        raise BadPattern(_message(error)) from error
    return lambda encoded: search(encoded) is not None


def _message(error: Exception) -> str:
    detail = error.args[0] if error.args else ""
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
