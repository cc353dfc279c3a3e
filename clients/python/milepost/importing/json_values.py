"""The values of attributes in JSON: plain ones, and the contract's own `Value` in protobuf's JSON mapping."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeAlias

from google.protobuf.json_format import ParseDict, ParseError

from milepost.grammar import INEXACT, INTEGER_EXACT_MAX, NANOS_PER_MICRO, is_exact
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
    """An object or an array that means nothing as a value, and may be left out."""


class MayBeInexact(Exception):
    """A large number whose text has to be looked at: see `exact_float`."""


class Inexact(float):
    """A number that its text does not state exactly."""


class Instant(int):
    """Microseconds since 1970."""


JsonValue: TypeAlias = str | float | bool | list[str] | Instant | None


def exact_float(text: str) -> float:
    """For a decoder: the number of a text, `Inexact` where no double holds it."""
    number = float(text)
    return number if is_exact(text) else Inexact(number)


def json_value(given: Any, is_checked: bool = False) -> JsonValue:
    """The value of an attribute; None = no value. `is_checked`: floats were read with `exact_float`.

    Raises UnfitValue, and MayBeInexact when that is needed and was not done.
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
        raise UnfitValue(INEXACT)
    return number


def _of_message(given: Mapping[str, Any], is_checked: bool) -> JsonValue:
    if len(given) == 1:
        [(key, value)] = given.items()
        if type(value) is _PLAIN_FORMS.get(key):
            return json_value(value, is_checked)
    try:
        message = ParseDict(dict(given), Value())
    except ParseError as error:
        raise UnfitValue(f"is no Value: {' '.join(str(error).split())}") from error
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


def _check_number(given: Mapping[str, Any], number: float, is_checked: bool) -> None:
    """Protobuf rounds a number that no double holds; here it is refused, as everywhere."""
    [value] = [value for value in given.values() if value is not None]
    if isinstance(value, float):
        _checked(value, is_checked)
    elif isfinite(number) and not is_exact(str(value).strip()):
        raise UnfitValue(INEXACT)
