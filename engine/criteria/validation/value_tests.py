"""Faults of a test on a value, one function for each form of test."""

from __future__ import annotations

import math

from engine.criteria.matching import compile_test
from engine.criteria.matching.matcher import STRINGS
from engine.criteria.matching.place import LATITUDE_DEGREES_MAX, LONGITUDE_DEGREES_MAX
from engine.criteria.matching.text import BadPattern
from engine.criteria.matching.version import BadVersion
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
from engine.criteria.validation.faults import Faults
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Value, kind_of

ANY_KIND = frozenset(Kind)
NUMBERS = frozenset({Kind.NUMBER})
TIMES = frozenset({Kind.TIME})
ORDERED = NUMBERS | TIMES

_PLURAL = {
    Kind.STRING: "strings",
    Kind.NUMBER: "numbers",
    Kind.BOOL: "booleans",
    Kind.TIME: "times",
    Kind.LIST: "lists",
}


def check_test(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind] = ANY_KIND) -> None:
    """Notes what is wrong with `test`, whose field is at `path`, asked of values of the kinds `subject`."""
    before = len(faults.violations)
    path = f"{path}.{field_of(test)}"
    match test:
        case Exists():
            pass
        case Equals():
            check_value(faults, path, test.value)
        case In():
            _check_in(faults, path, test)
        case Compare():
            _check_ordered(faults, path, test.operand)
        case Between():
            _check_between(faults, path, test)
        case Text():
            _check_text(faults, path, test)
        case Semver():
            _check_semver(faults, path, test)
        case WithinLast():
            check_positive(faults, path, test.duration)
        case OlderThan():
            if test.duration < 0:
                faults.add(path, "must not be negative")
        case Near():
            _check_near(faults, path, test)
    if len(faults.violations) == before:
        _check_fits(faults, path, test, subject)


def check_number_test(faults: Faults, path: str, test: NumberTest) -> None:
    """Notes what is wrong with the test of an aggregate: every operand is a number."""
    strangers = [
        index
        for index, value in enumerate(test.values if isinstance(test, In) else ())
        if kind_of(value) is not Kind.NUMBER
    ]
    for index in strangers:
        faults.add(f"{path}.in.values[{index}]", "does not fit: an aggregate is a number")
    if not strangers:
        check_test(faults, path, test, NUMBERS)


def field_of(test: ValueTest) -> str:
    """The name of the field of `ValueTest` that holds this form of test."""
    match test:
        case Compare() | Text():
            return test.op
        case Semver():
            return f"semver.{test.op}"
        case Exists() | Equals() | In() | Between() | WithinLast() | OlderThan() | Near():
            return str(test.__struct_config__.tag)


def kinds_of(test: ValueTest) -> frozenset[Kind]:
    """The kinds of value on which a sound test can be true."""
    match test:
        case Exists():
            return ANY_KIND
        case Equals():
            return _kinds_equal_to((test.value,))
        case In():
            return _kinds_equal_to(test.values)
        case Compare():
            return frozenset({kind_of(test.operand)})
        case Between():
            return frozenset({kind_of(test.low)})
        case WithinLast() | OlderThan():
            return TIMES
        case Text() | Semver() | Near():
            return STRINGS


def _kinds_equal_to(values: tuple[Value, ...]) -> frozenset[Kind]:
    kinds = frozenset(map(kind_of, values))
    return kinds | STRINGS if Kind.STRING in kinds else kinds


def _check_fits(faults: Faults, path: str, test: ValueTest, subject: frozenset[Kind]) -> None:
    kinds = kinds_of(test)
    if kinds and kinds.isdisjoint(subject):
        asked = " or ".join(_PLURAL[kind] for kind in sorted(kinds))
        given = " or ".join(_PLURAL[kind] for kind in sorted(subject))
        faults.add(path, f"does not fit: it is a test on {asked}, and what it tests are {given}")


def check_value(faults: Faults, path: str, value: Value) -> None:
    """Notes a value that could not be stored either: not finite, too long, out of range."""
    limits = faults.limits
    if type(value) is float:
        if not math.isfinite(value):
            faults.add(path, "must be a finite number")
    elif type(value) is str:
        check_string(faults, path, value)
    elif type(value) is int:
        check_instant(faults, path, value)
    elif type(value) is tuple:
        if len(value) > limits.list_items_max:
            faults.add(path, f"has more than {limits.list_items_max} items")
        elif any(len(item.encode()) > limits.list_item_bytes_max for item in value):
            faults.add(path, f"has an item longer than {limits.list_item_bytes_max} bytes")


def check_string(faults: Faults, path: str, text: str) -> None:
    """Notes a string that is too long."""
    bytes_max = faults.limits.string_bytes_max
    if len(text.encode()) > bytes_max:
        faults.add(path, f"is longer than {bytes_max} bytes")


def check_instant(faults: Faults, path: str, instant: int) -> None:
    """Notes an instant that no timestamp can name."""
    if not TIME_MIN_MICROS <= instant <= TIME_MAX_MICROS:
        faults.add(path, "must lie in the years 1 to 9999")


def check_positive(faults: Faults, path: str, duration: int) -> None:
    """Notes a duration of nothing or less."""
    if duration <= 0:
        faults.add(path, "must be longer than zero")


def _check_in(faults: Faults, path: str, test: In) -> None:
    values_max = faults.limits.in_values_max
    if len(test.values) > values_max:
        faults.add(path, f"has {len(test.values)} values; at most {values_max} are allowed")
        return
    for index, value in enumerate(test.values):
        check_value(faults, f"{path}.values[{index}]", value)


def _check_ordered(faults: Faults, path: str, operand: Value) -> None:
    if kind_of(operand) not in ORDERED:
        faults.add(path, "must be a number or a time: nothing else has an order")
    else:
        check_value(faults, path, operand)


def _check_between(faults: Faults, path: str, test: Between) -> None:
    before = len(faults.violations)
    _check_ordered(faults, f"{path}.low", test.low)
    _check_ordered(faults, f"{path}.high", test.high)
    if len(faults.violations) > before:
        return
    if kind_of(test.low) is not kind_of(test.high):
        faults.add(path, "low and high must both be numbers or both be times")
    elif test.low > test.high:
        faults.add(path, "is empty: low is greater than high")


def _check_text(faults: Faults, path: str, test: Text) -> None:
    check_string(faults, path, test.pattern)
    try:
        compile_test(test)
    except BadPattern as error:
        faults.add(path, f"is not an RE2 expression: {error}")


def _check_semver(faults: Faults, path: str, test: Semver) -> None:
    try:
        compile_test(test)
    except BadVersion as error:
        faults.add(path, str(error))


def _check_near(faults: Faults, path: str, test: Near) -> None:
    # Written so that NaN, which is in no order with anything, is refused as well.
    if not abs(test.latitude) <= LATITUDE_DEGREES_MAX:
        faults.add(f"{path}.latitude", "must lie between -90 and 90 degrees")
    if not abs(test.longitude) <= LONGITUDE_DEGREES_MAX:
        faults.add(f"{path}.longitude", "must lie between -180 and 180 degrees")
    if not 0 <= test.meters < math.inf:
        faults.add(f"{path}.meters", "must be a finite number, zero or more")
