"""Tests on a value (section 3.1), written directly from the definitions."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from engine.criteria.model import (
    Between,
    Compare,
    Equals,
    Exists,
    In,
    Near,
    NumberTest,
    OlderThan,
    Semver,
    Text,
    ValueTest,
    WithinLast,
)
from engine.values import Micros, Value

EARTH_RADIUS_METERS = 6_371_008.8


def passes(test: ValueTest, value: Value | None, now: Micros) -> bool:
    """Whether a value passes a test at the instant `now`; None is a missing value and passes none."""
    if value is None:
        return False
    if isinstance(value, tuple):
        if isinstance(test, Equals | In) and _equals_whole_list(test, value):
            return True
        return any(_passes_single(test, element, now) for element in value)
    return _passes_single(test, value, now)


def _equals_whole_list(test: Equals | In, value: tuple[str, ...]) -> bool:
    """A list as the operand is equal to a list with the same elements in the same order."""
    wanted = [test.value] if isinstance(test, Equals) else test.values
    lists = [operand for operand in wanted if isinstance(operand, tuple)]
    if test.ignore_case:
        return [e.casefold() for e in value] in [[e.casefold() for e in operand] for operand in lists]
    return value in lists


def _passes_single(test: ValueTest, value: Value, now: Micros) -> bool:
    match test:
        case Exists():
            return True
        case Equals():
            return _same(test.value, value, test.ignore_case)
        case In():
            return any(_same(wanted, value, test.ignore_case) for wanted in test.values)
        case Compare():
            return _is_ordered_like(test.operand, value) and _compares(value, test.op, test.operand)
        case Between():
            return (
                _is_ordered_like(test.low, value)
                and _compares(value, "greater_or_equal", test.low)
                and _compares(value, "less_or_equal", test.high)
            )
        case Text():
            return type(value) is str and _text_passes(test, value)
        case Semver():
            return type(value) is str and _semver_passes(test, value)
        case WithinLast():
            return type(value) is int and now - test.duration < value <= now
        case OlderThan():
            return type(value) is int and value <= now - test.duration
        case Near():
            return type(value) is str and _is_near(test, value)


def _same(wanted: Value, value: Value, ignore_case: bool) -> bool:
    if type(wanted) is not type(value):
        return False
    if ignore_case and isinstance(wanted, str) and isinstance(value, str):
        return wanted.casefold() == value.casefold()
    return wanted == value


def _is_ordered_like(operand: Value, value: Value) -> bool:
    return type(value) is type(operand) and type(value) in (float, int)


def _compares(value: Any, op: str, operand: Any) -> bool:
    less, same = bool(value < operand), bool(value == operand)
    return {
        "greater_than": not less and not same,
        "greater_or_equal": not less,
        "less_than": less,
        "less_or_equal": less or same,
        "equals": same,
    }[op]


def number_passes(test: NumberTest, number: Fraction) -> bool:
    """Whether an aggregate passes its test; every operand means its shortest decimal form."""
    match test:
        case Equals():
            return isinstance(test.value, float) and number == shortest_decimal(test.value)
        case In():
            return any(isinstance(v, float) and number == shortest_decimal(v) for v in test.values)
        case Compare():
            return _compares(number, test.op, shortest_decimal(test.operand))
        case Between():
            return shortest_decimal(test.low) <= number <= shortest_decimal(test.high)


def shortest_decimal(number: float) -> Fraction:
    """The exact value of the shortest decimal that reads back as this double: 0.1 is one tenth."""
    return Fraction(repr(number))


# --- strings ------------------------------------------------------------------------------------------------


def _text_passes(test: Text, value: str) -> bool:
    if test.op == "matches":
        return re.search(test.pattern, value, re.IGNORECASE if test.ignore_case else 0) is not None
    pattern = test.pattern.casefold() if test.ignore_case else test.pattern
    subject = value.casefold() if test.ignore_case else value
    match test.op:
        case "contains":
            return pattern in subject
        case "starts_with":
            return subject[: len(pattern)] == pattern
        case "ends_with":
            return len(subject) >= len(pattern) and subject[len(subject) - len(pattern) :] == pattern
        case "glob":
            return _glob(pattern, subject)


def _glob(pattern: str, subject: str) -> bool:
    """`*` matches any characters, `?` exactly one; the whole string must match."""
    reachable = {0}
    for sign in pattern:
        if sign == "*":
            reachable = set(range(min(reachable), len(subject) + 1))
        else:
            reachable = {i + 1 for i in reachable if i < len(subject) and sign in ("?", subject[i])}
        if not reachable:
            return False
    return len(subject) in reachable


# --- versions -----------------------------------------------------------------------------------------------

_IDENTIFIER_SIGNS = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-")
_DIGITS = frozenset("0123456789")


def _semver_passes(test: Semver, value: str) -> bool:
    mine, wanted = parse_version(value), parse_version(test.version)
    if mine is None or wanted is None:
        return False
    return _compares(precedence_key(mine), test.op, precedence_key(wanted))


def parse_version(text: str) -> tuple[list[int], list[str]] | None:
    """Major, minor, patch and the pre-release identifiers of a version; None when it is no version. Minor and
    patch may be missing and are 0 then.
    """
    text, plus, build = text.partition("+")
    core, dash, pre = text.partition("-")
    numbers, identifiers, builds = core.split("."), pre.split("."), build.split(".")
    if len(numbers) > 3 or not all(_is_plain_number(n) for n in numbers):
        return None
    if dash and not all(
        _is_identifier(i) and (not _is_digits(i) or _is_plain_number(i)) for i in identifiers
    ):
        return None
    if plus and not all(_is_identifier(i) for i in builds):
        return None
    return [*map(int, numbers), 0, 0][:3], identifiers if dash else []


def _is_digits(text: str) -> bool:
    return text != "" and set(text) <= _DIGITS


def _is_plain_number(text: str) -> bool:
    return _is_digits(text) and (text == "0" or text[0] != "0")


def _is_identifier(text: str) -> bool:
    return text != "" and set(text) <= _IDENTIFIER_SIGNS


def precedence_key(version: tuple[list[int], list[str]]) -> tuple[object, ...]:
    """Sorts versions by precedence: a release after its pre-releases, numeric identifiers before others."""
    numbers, identifiers = version
    pre = tuple((0, int(i), "") if _is_digits(i) else (1, 0, i) for i in identifiers)
    return (*numbers, identifiers == [], pre)


# --- places -------------------------------------------------------------------------------------------------


def _is_near(test: Near, value: str) -> bool:
    place = parse_place(value)
    return place is not None and distance_meters((test.latitude, test.longitude), place) <= test.meters


def parse_place(text: str) -> tuple[float, float] | None:
    """Latitude and longitude of a "lat,long" string in decimal degrees; None when it is no place."""
    found = re.fullmatch(r"\s*([+-]?[0-9]+(?:\.[0-9]+)?)\s*,\s*([+-]?[0-9]+(?:\.[0-9]+)?)\s*", text)
    if found is None:
        return None
    latitude, longitude = float(found[1]), float(found[2])
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def distance_meters(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The great-circle distance, from the angle between the two points' vectors."""
    a, b = _unit_vector(*one), _unit_vector(*other)
    cross = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return EARTH_RADIUS_METERS * math.atan2(math.hypot(*cross), dot)


def _unit_vector(latitude: float, longitude: float) -> tuple[float, float, float]:
    phi, theta = math.radians(latitude), math.radians(longitude)
    return (math.cos(phi) * math.cos(theta), math.cos(phi) * math.sin(theta), math.sin(phi))
