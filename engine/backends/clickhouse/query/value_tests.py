"""Tests on a value as conditions of SQL.

Each condition passes exactly the values that the test's matcher passes. Where the arithmetic of a server may
differ from ours in the last bit (`near`), the condition leaves strings close to the edge undecided: they are
`Edge` cases, read once and decided by the matcher itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, assert_never

import msgspec

from engine.backends.clickhouse.query.cells import Cell
from engine.backends.clickhouse.query.folding import Folding
from engine.backends.clickhouse.query.literals import (
    FALSE,
    TRUE,
    all_of,
    any_of,
    number,
    one_of,
    one_of_integers,
    one_of_numbers,
    text,
    texts,
)
from engine.criteria.model import Equals, Exists, In, Near, Semver, Text
from engine.criteria.operators import InstantRange, NumberRange, ResolvedTest
from engine.criteria.operators.place import (
    EARTH_RADIUS_METERS,
    LATITUDE_DEGREES_MAX,
    LONGITUDE_DEGREES_MAX,
    PLACE,
)
from engine.criteria.operators.text import glob_as_re2
from engine.criteria.operators.version import VERSION, precedence
from engine.criteria.ranges import Interval, TimeRange
from engine.values import Value

NEAR_MARGIN_METERS = 1.0
"""Places as close to the edge of a circle are decided by the matcher. Far above any rounding: near the
opposite point of the globe an error of the last bit moves a place by a tenth of a metre.
"""
NEAR_MARGIN_DEGREES = 1e-6
"""The same at the poles, and at the last meridian."""

_COMPARISONS: dict[str, Literal[">", ">=", "<", "<="]] = {
    "greater_than": ">",
    "greater_or_equal": ">=",
    "less_than": "<",
    "less_or_equal": "<=",
}
_NOTHING = r"[^\x00-\x{10FFFF}]"
"""An expression that matches no string, and has no literal that could be looked for in its place."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Edge(msgspec.Struct, frozen=True):
    """Strings that a test cannot decide in SQL: those in `strings` (an array for each row of `table` where
    `condition` holds) for which `is_close` holds of `x`.
    """

    test: Near
    table: str
    condition: str
    strings: str
    is_close: str


EdgePassing = Mapping[bytes, Sequence[str]]
"""By test (`edge_key`), the strings close to its edge that pass."""


def edge_key(test: Near) -> bytes:
    """The key of a test in `EdgePassing`."""
    return _encode(test)


@dataclass(slots=True)
class ValueTests:
    """Writes tests as conditions, and collects the edges that they leave open."""

    folding: Folding
    passing: EdgePassing = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    promoted: Collection[str] = ()
    """Event attributes with columns of their own."""

    def passes(self, test: ResolvedTest, cell: Cell, table: str, condition: str) -> str:
        """Whether the value in a cell passes. Rows of `table` under `condition` are those it is asked of."""
        match test:
            case Exists():
                filled = all_of([cell.list.there, f"notEmpty({cell.list.value})"])
                others = (cell.string, cell.number, cell.bool, cell.time)
                return any_of([*(slot.there for slot in others), filled])
            case Equals():
                return self._equals((test.value,), test.ignore_case, cell)
            case In():
                return self._equals(test.values, test.ignore_case, cell)
            case NumberRange():
                return all_of([cell.number.there, in_intervals(cell.number.value, test.intervals)])
            case InstantRange():
                return all_of([cell.time.there, in_ranges(cell.time.value, test.ranges)])
            case Text():
                return _on_strings(cell, lambda string: self._text(test, string))
            case Semver():
                return _on_strings(cell, lambda string: _semver(test, string))
            case Near():
                return self._near(test, cell, table, condition)
            case _:
                assert_never(test)

    def _equals(self, operands: Sequence[Value], ignore_case: bool, cell: Cell) -> str:
        strings = sorted({self._folded(v, ignore_case) for v in operands if type(v) is str})
        lists = {tuple(self._folded(e, ignore_case) for e in v) for v in operands if type(v) is tuple}
        floats = [v for v in operands if type(v) is float]
        bools = sorted({int(v) for v in operands if type(v) is bool})
        times = [v for v in operands if type(v) is int]
        own = self.folding.of_string(cell.string.value) if ignore_case else cell.string.value
        elements = cell.list.value
        if ignore_case:
            elements = f"arrayMap(x -> {self.folding.of_string('x')}, {elements})"
        conditions = []
        if strings:
            conditions.append(all_of([cell.string.there, one_of(own, strings)]))
            some = f"arrayExists(x -> {one_of('x', strings)}, {elements})"
            conditions.append(all_of([cell.list.there, some]))
        if floats:
            conditions.append(all_of([cell.number.there, one_of_numbers(cell.number.value, floats)]))
        if bools:
            conditions.append(all_of([cell.bool.there, one_of_integers(cell.bool.value, bools)]))
        if times:
            conditions.append(all_of([cell.time.there, one_of_integers(cell.time.value, times)]))
        whole = (all_of([cell.list.there, f"{elements} = {texts(each)}"]) for each in sorted(lists))
        return any_of([*conditions, *whole])

    @staticmethod
    def _folded(string: str, ignore_case: bool) -> str:
        return string.casefold() if ignore_case else string

    def _text(self, test: Text, string: str) -> str:
        if test.op == "matches":
            return _matches(string, test.pattern, ignore_case=test.ignore_case)
        pattern = self._folded(test.pattern, test.ignore_case)
        if test.ignore_case:
            string = self.folding.of_string(string)
        match test.op:
            case "contains":
                return f"position({string}, {text(pattern)}) > 0" if pattern else TRUE
            case "starts_with":
                return f"startsWith({string}, {text(pattern)})"
            case "ends_with":
                return f"endsWith({string}, {text(pattern)})"
            case "glob":
                return _matches(string, glob_as_re2(pattern), ignore_case=False)
            case _:
                assert_never(test.op)

    def _near(self, test: Near, cell: Cell, table: str, condition: str) -> str:
        surely, possibly = _near("x", test)
        is_close = all_of([possibly, f"NOT {surely}"])
        edge = Edge(test, table, condition, cell.strings, is_close)
        if edge not in self.edges:
            self.edges.append(edge)
        passing = self.passing.get(edge_key(test), ())
        return f"arrayExists(x -> {any_of([surely, one_of('x', passing)])}, {cell.strings})"


def in_intervals(expression: str, intervals: Sequence[Interval]) -> str:
    """Whether a number lies in one of the intervals."""
    return any_of(
        all_of(
            [
                *_low_bound(expression, interval),
                *_high_bound(expression, interval),
            ]
        )
        for interval in intervals
    )


def _low_bound(expression: str, interval: Interval) -> list[str]:
    if interval.low is None:
        return []
    return [f"{expression} {'>=' if interval.low_included else '>'} {number(interval.low)}"]


def _high_bound(expression: str, interval: Interval) -> list[str]:
    if interval.high is None:
        return []
    return [f"{expression} {'<=' if interval.high_included else '<'} {number(interval.high)}"]


def in_ranges(expression: str, ranges: Sequence[TimeRange]) -> str:
    """Whether an instant lies in one of the ranges."""
    return any_of(in_range(expression, each) for each in ranges)


def in_range(expression: str, span: TimeRange) -> str:
    """Whether an instant lies in a range."""
    start = [] if span.start is None else [f"{expression} >= {span.start}"]
    end = [] if span.end is None else [f"{expression} < {span.end}"]
    return all_of([*start, *end])


def _on_strings(cell: Cell, passes: Callable[[str], str]) -> str:
    return any_of(
        [
            all_of([cell.string.there, passes(cell.string.value)]),
            all_of([cell.list.there, f"arrayExists(x -> {passes('x')}, {cell.list.value})"]),
        ]
    )


def _matches(string: str, pattern: str, *, ignore_case: bool) -> str:
    """Whether RE2 finds a pattern. ClickHouse compiles it so that `.` matches line breaks, which (?-s) takes
    back. It first looks for a literal that it takes out of the pattern, byte by byte, and so for the first
    bytes of the optional "é" in "é?". Beside an alternative without a literal it looks for none. The pattern
    stands last and bare: it may end in text that `\\Q` quotes.
    """
    flags = "(?i-s)" if ignore_case else "(?-s)"
    return f"match({string}, {text(f'{_NOTHING}|{flags}{pattern}')})"


# --- versions -----------------------------------------------------------------------------------------------


def _semver(test: Semver, string: str) -> str:
    wanted = precedence(test.version)
    if wanted is None:
        return FALSE
    core, is_release, identifiers = wanted
    whole = text(rf"\A(?:{VERSION.pattern})\z")
    groups = f"extractGroups({string}, {whole})"

    def part(index: int) -> str:
        return f"if({groups}[{index}] = '', '0', {groups}[{index}])"

    # As `precedence`: each number by its length and digits, a release after its pre-releases, then the
    # identifiers, digits before words.
    own_core = ",".join(f"length({part(n)}),{part(n)}" for n in (1, 2, 3))
    own_core = f"({own_core},toUInt8({groups}[4] = ''))"
    wanted_core = ",".join(f"toUInt64({length}),{text(digits)}" for length, digits in core)
    wanted_core = f"({wanted_core},toUInt8({int(is_release)}))"
    is_digits = r"match(y, '\\A[0-9]+\\z')"
    listed = f"if({groups}[4] = '', CAST([], 'Array(String)'), splitByChar('.', {groups}[4]))"
    own_identifiers = (
        f"arrayMap(y -> (toUInt8(NOT {is_digits}), if({is_digits}, length(y), toUInt64(0)), y), {listed})"
    )
    wanted_identifiers = ",".join(
        f"({int(word)},{length},{text(part)})" for word, length, part in identifiers
    )
    wanted_identifiers = f"CAST([{wanted_identifiers}], 'Array(Tuple(UInt8, UInt64, String))')"
    same_core = f"{own_core} = {wanted_core}"
    if test.op == "equals":
        compared = all_of([same_core, f"{own_identifiers} = {wanted_identifiers}"])
    else:
        comparison = _COMPARISONS[test.op]
        by_identifiers = all_of([same_core, f"{own_identifiers} {comparison} {wanted_identifiers}"])
        compared = any_of([f"{own_core} {comparison[0]} {wanted_core}", by_identifiers])
    return all_of([f"match({string}, {whole})", compared])


# --- places -------------------------------------------------------------------------------------------------


def _near(string: str, test: Near) -> tuple[str, str]:
    """Whether a string is surely, and whether it is possibly, a place within the distance."""
    whole = text(rf"\A(?:{PLACE.pattern})\z")
    groups = f"extractGroups({string}, {whole})"
    latitude, longitude = f"toFloat64OrZero({groups}[1])", f"toFloat64OrZero({groups}[2])"
    phi = number(math.radians(test.latitude))
    h = (
        f"pow(sin((radians({latitude}) - {phi}) / 2), 2)"
        f" + {number(math.cos(math.radians(test.latitude)))} * cos(radians({latitude}))"
        f" * pow(sin(radians({longitude} - {number(test.longitude)}) / 2), 2)"
    )
    distance = f"{number(2 * EARTH_RADIUS_METERS)} * asin(sqrt(least({number(1.0)}, {h})))"

    def within(meters: float, degrees: float) -> str:
        return all_of(
            [
                f"match({string}, {whole})",
                f"abs({latitude}) <= {number(LATITUDE_DEGREES_MAX + degrees)}",
                f"abs({longitude}) <= {number(LONGITUDE_DEGREES_MAX + degrees)}",
                f"{distance} <= {number(test.meters + meters)}",
            ]
        )

    return (
        within(-NEAR_MARGIN_METERS, -NEAR_MARGIN_DEGREES),
        within(NEAR_MARGIN_METERS, NEAR_MARGIN_DEGREES),
    )
