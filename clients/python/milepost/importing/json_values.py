"""Attribute values in JSON: plain values, and the contract's `Value` in protobuf's JSON mapping."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeAlias

from google.protobuf.json_format import ParseDict, ParseError

from milepost.grammar import (
    INEXACT,
    INTEGER_EXACT_MAX,
    NANOS_PER_MICRO,
    NOT_A_NUMBER,
    TOO_LARGE,
    fault_of_time,
    is_exact,
    is_number,
)
from milepost.v1.value_pb2 import Value

MICROS_PER_SECOND = 1_000_000

_FIELDS = {field.name: field for field in Value.DESCRIPTOR.fields}
_MESSAGE_KEYS = frozenset(_FIELDS) | {field.json_name for field in _FIELDS.values()}
_PLAIN_FORMS = {
    "stringValue": str,
    "string_value": str,
    "numberValue": float,
    "number_value": float,
    "boolValue": bool,
    "bool_value": bool,
}


class UnfitValue(ValueError):
    """A value that no attribute can hold; the message says why."""


class UnknownShape(UnfitValue):
    """An object or array that is not a value. `skip_objects` leaves it out."""


class MayBeInexact(Exception):
    """There may be a large number: decode the line again with `exact_float`."""


class Inexact(float):
    """A double that differs from the number in the text."""


class Instant(int):
    """Microseconds since 1970."""


JsonValue: TypeAlias = str | float | bool | list[str] | Instant | None


def exact_float(text: str) -> float:
    """A hook for decoders: the number of a text, `Inexact` if no double holds it."""
    number = float(text)
    return number if is_exact(text) else Inexact(number)


def json_value(given: Any, is_checked: bool = False) -> JsonValue:
    """The value of an attribute; None = no value. `is_checked`: floats were decoded with `exact_float`.

    Raises UnfitValue, and MayBeInexact for a large number that was not.
    """
    if given is None or isinstance(given, str | bool):
        return given
    if isinstance(given, float):
        return _checked(given, is_checked)
    if isinstance(given, int):
        if abs(given) > INTEGER_EXACT_MAX:
            raise UnfitValue(INEXACT)
        return float(given)
    if isinstance(given, Mapping) and given and given.keys() <= _MESSAGE_KEYS:
        return _of_message(given, is_checked)
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        return given
    raise UnknownShape("must be a string, a number, a bool or an array of strings")


def _checked(number: float, is_checked: bool) -> float:
    if abs(number) < INTEGER_EXACT_MAX:
        return number
    if not is_checked:
        raise MayBeInexact
    if isinstance(number, Inexact):
        raise UnfitValue(INEXACT if isfinite(number) else TOO_LARGE)
    return number


def _of_message(given: Mapping[str, Any], is_checked: bool) -> JsonValue:
    if len(given) == 1:
        [(key, value)] = given.items()
        if type(value) is _PLAIN_FORMS.get(key):
            return json_value(value, is_checked)
    try:
        message = ParseDict(dict(given), Value())
    except ParseError as error:
        raise UnfitValue(_refusal(given, error)) from error
    match message.WhichOneof("kind"):
        case "number_value":
            _check_number(given, message.number_value, is_checked)
            return message.number_value
        case "time_value":
            time = message.time_value
            return Instant(time.seconds * MICROS_PER_SECOND + time.nanos // NANOS_PER_MICRO)
        case "list_value":
            return list(message.list_value.values)
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
    return None


def _refusal(given: Mapping[str, Any], error: ParseError) -> str:
    """Why protobuf refuses a value: of a time what other formats say, otherwise its own words."""
    for key in ("timeValue", "time_value"):
        if isinstance(given.get(key), str) and (fault := fault_of_time(given[key])):
            return fault
    return f"is not a Value: {' '.join(str(error).split())}"


def _check_number(given: Mapping[str, Any], number: float, is_checked: bool) -> None:
    """Refuses what protobuf takes in Python: a number that no double holds, which it would round, a bool, and
    texts such as `1_000`, which are no JSON numbers.
    """
    [value] = [value for value in given.values() if value is not None]
    if isinstance(value, bool):
        raise UnfitValue(f"is not a Value: numberValue must be a number, not {str(value).lower()}")
    if isinstance(value, float):
        _checked(value, is_checked)
    elif isinstance(value, str) and isfinite(number) and not is_number(value):
        raise UnfitValue(f"is not a Value: numberValue {value!r} {NOT_A_NUMBER}")
    elif isfinite(number) and not is_exact(str(value)):
        raise UnfitValue(INEXACT)
