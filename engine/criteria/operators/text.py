"""`contains`, `starts_with`, `ends_with`, `glob` and `matches`: the tests on strings.

With `ignore_case` both sides are folded (Unicode case folding, `str.casefold`, so that "STRASSE" and "straße"
are the same). `matches` is the exception: RE2 has no full case folding, so it is compiled case-insensitively
instead, which matches single characters only.

`glob` works on characters of the folded string: `?` is any one character, `*` any number of them, line breaks
included; every other character is literal, without escapes or classes. It runs on RE2, as `matches` does, so
no pattern takes more than linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, get_args

import re2

from engine.criteria.faults import Faults, Finding
from engine.criteria.operators.base import (
    JoinedSearch,
    Matcher,
    Texts,
    TimelessOperator,
    on_strings,
)
from engine.criteria.words import ignoring_case, quoted
from engine.limits import Limits

EXPRESSION_BYTES_MAX = 1 << 20
"""Memory of a compiled expression, in bytes. RE2 keeps the states it has met in it."""
PROGRAM_BYTES_MAX = 2 * EXPRESSION_BYTES_MAX
"""Memory of both forms of an expression: for one string, and for many that are joined."""

CLASS_INSTRUCTIONS = 200
"""Instructions that a Unicode class of an expression counts for. To parse it takes as long as to compile that
many: a tenth of a millisecond.
"""
WILDCARD_INSTRUCTIONS = 12
"""Instructions of a wildcard of a glob, at most."""
TOO_LARGE_INSTRUCTIONS = EXPRESSION_BYTES_MAX // 16
"""What an expression counts for that RE2 gives up: as many instructions as fit into the memory."""
_TOO_LARGE = "pattern too large"
"""What RE2 says about such an expression."""
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CLASS_ESCAPES = ("p", "P")

_WHOLE_STRING = re.compile(r"\\[AzCQ]|\(\?[a-zA-Z]*-[a-zA-Z]*m")
"""What may make an expression speak of the ends of all that is searched, or of single bytes: `\\A`, `\\z`,
`\\Q`, which hides what follows, `\\C`, and flags that end multi-line mode. It has no form for joined strings.
"""

_STRUCTURE = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|[()|]", re.DOTALL)
"""Escapes, classes, and what is left of groups and choices beside them."""
_REPETITIONS = ("*", "+", "?", "{")
_RANGE_BYTES_MAX = 16
"""Bytes of the ends of a range of strings."""
_ABOVE_UTF_8 = b"\xff"
"""Sorts above the rest of any string."""

_GLOB_WILDCARDS = {"*": "(?s:.*)", "?": "(?s:.)"}
_GLOB_WILDCARD = re.compile(r"[*?]")

TextTest = Callable[[str, str], bool]


class BadPattern(ValueError):
    """RE2 rejects the expression; the message is RE2's."""


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
        """One field for each operator."""
        return get_args(TextOp)

    @property
    def field(self) -> str:
        """The field of the operator."""
        return self.op

    @property
    def is_compiled(self) -> bool:
        """Whether it runs on RE2."""
        return self.op in ("glob", "matches")

    def check(self, faults: Faults, path: str) -> None:
        """Checks that the pattern is not too long, and what compiling it has found."""
        if not self.is_compiled:
            faults.check_string(path, self.pattern)
            return
        misshapen = self._misshapen(faults.limits)
        if misshapen is not None:
            faults.add(path, misshapen)
            return
        faults.check_pattern(path, self)

    def _misshapen(self, limits: Limits) -> str | None:
        """What is wrong with a pattern by its length and its parts. It is not compiled then."""
        if len(self.pattern.encode()) > limits.pattern_bytes_max:
            return f"is longer than {limits.pattern_bytes_max} bytes"
        if self.op == "glob":
            wildcards, most = len(_GLOB_WILDCARD.findall(self.pattern)), limits.glob_wildcards_max
            what = "wildcards"
        else:
            wildcards, most = _unicode_classes(self.pattern), limits.expression_classes_max
            what = "Unicode classes"
        return f"has {wildcards} {what}; at most {most} are allowed" if wildcards > most else None

    def finding(self, limits: Limits) -> Finding | None:
        """The cost of a pattern, and its fault. An expression is compiled for that. None: it never is."""
        if not self.is_compiled or self._misshapen(limits) is not None:
            return None
        read = len(self.pattern.encode())
        if self.op == "glob":
            return Finding(read + WILDCARD_INSTRUCTIONS * len(_GLOB_WILDCARD.findall(self.pattern)))
        read += CLASS_INSTRUCTIONS * _unicode_classes(self.pattern)
        try:
            size: int = _compiled(self.pattern, ignore_case=self.ignore_case).programsize
        except BadPattern as error:
            cost = max(read, TOO_LARGE_INSTRUCTIONS) if str(error).startswith(_TOO_LARGE) else read
            return Finding(cost, f"is not a valid RE2 expression: {error}")
        most = limits.expression_instructions_max
        fault = (
            f"compiles to {size} instructions; at most {most} are allowed: use smaller repetitions"
            if size > most
            else None
        )
        return Finding(max(read, size), fault)

    def matcher(self) -> Matcher:
        """Passes strings that match the pattern. Raises BadPattern."""
        match self.op:
            case "contains":
                return _folding(self, lambda value, pattern: pattern in value, is_literal=True)
            case "starts_with":
                return _folding(self, str.startswith, between=_beginning_with(self.pattern))
            case "ends_with":
                return _folding(self, str.endswith)
            case "glob":
                return _glob(self)
            case "matches":
                found = _searcher(_compiled(self.pattern, ignore_case=self.ignore_case))
                joined = None if _WHOLE_STRING.search(self.pattern) else self.pattern
                return on_strings(
                    lambda value: found(value.encode()),
                    program_bytes=PROGRAM_BYTES_MAX,
                    joined=_joined_searcher(joined, ignore_case=self.ignore_case),
                    between=_between(self.pattern, ignore_case=self.ignore_case),
                )

    def describe(self) -> str:
        """In words."""
        return f"{self.op.replace('_', ' ')} {quoted(self.pattern)}{ignoring_case(self.ignore_case)}"


Tests: TypeAlias = Text
Resolved: TypeAlias = Text


def _folding(
    test: Text, passes: TextTest, *, is_literal: bool = False, between: Texts | None = None
) -> Matcher:
    """`is_literal`, `between`: what is known of strings that pass if case is not folded."""
    if not test.ignore_case:
        return on_strings(
            lambda value: passes(value, test.pattern),
            literal=test.pattern,
            is_literal=is_literal,
            between=between,
        )
    pattern = test.pattern.casefold()
    return on_strings(lambda value: passes(value.casefold(), pattern))


def _glob(test: Text) -> Matcher:
    pattern = test.pattern.casefold() if test.ignore_case else test.pattern
    found = _searcher(_compiled(glob_as_re2(pattern), ignore_case=False))
    if test.ignore_case:
        return on_strings(lambda value: found(value.casefold().encode()), program_bytes=EXPRESSION_BYTES_MAX)
    return on_strings(
        lambda value: found(value.encode()),
        literal=_longest_literal(pattern),
        program_bytes=PROGRAM_BYTES_MAX,
        joined=_joined_searcher(f"^{_glob_body(pattern)}$", ignore_case=False),
        between=_beginning_with(_GLOB_WILDCARD.split(pattern, maxsplit=1)[0]),
    )


def _longest_literal(glob: str) -> str:
    return max(_GLOB_WILDCARD.split(glob), key=len)


def glob_as_re2(pattern: str) -> str:
    """The RE2 expression that matches the same whole strings as the glob.

    >>> glob_as_re2("a*.b?")
    '\\\\Aa(?s:.*)\\\\.b(?s:.)\\\\z'
    """
    return rf"\A{_glob_body(pattern)}\z"


def _glob_body(pattern: str) -> str:
    return "".join(_GLOB_WILDCARDS.get(part) or re2.escape(part) for part in pattern)


def _unicode_classes(expression: str) -> int:
    return sum(escaped in _CLASS_ESCAPES for escaped in _ESCAPED.findall(expression))


def _compiled(pattern: str, *, ignore_case: bool, within_lines: bool = False) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.never_nl = within_lines
    options.case_sensitive = not ignore_case
    options.max_mem = EXPRESSION_BYTES_MAX
    try:
        # When compiled from bytes, the RE2 wrapper does not translate positions back into characters.
        return re2.compile(pattern.encode(), options=options)
    except re2.error as error:
        raise BadPattern(_message(error)) from error


def _searcher(expression: Any) -> Callable[[bytes], bool]:
    search = expression.search
    return lambda encoded: search(encoded) is not None


def _joined_searcher(pattern: str | None, *, ignore_case: bool) -> JoinedSearch | None:
    """Searches joined strings for an expression. In multi-line mode the ends of a line are those of a string,
    and nothing in it matches a line break, so it matches within a line what it matches in the string alone.
    What follows a match in its line belongs to it, so that the next one is looked for in the next line. None:
    the expression (or None) has no such form.
    """
    if pattern is None:
        return None
    try:
        expression = _compiled(f"(?m)(?:{pattern})[^\\n]*", ignore_case=ignore_case, within_lines=True)
    except BadPattern:
        # It is longer than that for one string, and may be too long.
        return None

    # Beneath `finditer`, which takes several times as long as to find a match among short strings.
    match, anywhere = expression._regexp.Match, re2._Anchor.UNANCHORED

    def search(joined: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        while start <= end:
            first, last = match(anywhere, joined, start, end)[0]
            if first < 0:
                return
            yield first, last
            start = last + 1

    return search


def _beginning_with(text: str) -> Texts | None:
    """The strings that begin with a text."""
    return (text.encode(), text.encode() + _ABOVE_UTF_8) if text else None


def _between(pattern: str, *, ignore_case: bool) -> Texts | None:
    """Strings among which are all that an expression matches; None: any may be, as for most that do not begin
    with `^`.
    """
    if not _is_anchored(pattern):
        return None
    try:
        whole = _compiled(f"(?:{pattern})(?s:.*)", ignore_case=ignore_case)
        least, most = whole.possiblematchrange(_RANGE_BYTES_MAX)
    except (BadPattern, re2.error):
        return None
    return least, most


def _is_anchored(pattern: str) -> bool:
    """Whether an expression begins with `^`, whatever it goes on with: a choice at its top level would make
    that a part of it, and a repetition would make it optional.
    """
    if not pattern.startswith("^") or pattern[1:2] in _REPETITIONS or _WHOLE_STRING.search(pattern):
        return False
    depth = 0
    for piece in _STRUCTURE.findall(pattern):
        if piece == "|" and not depth:
            return False
        depth += {"(": 1, ")": -1}.get(piece, 0)
    return True


def _message(error: Exception) -> str:
    detail = error.args[0] if error.args else ""
    return detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
