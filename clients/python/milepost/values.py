"""Converts Python values to the contract's values and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from milepost._arguments import require_mapping, shown, wrong
from milepost.v1.value_pb2 import StringList, Value

Plain = str | float | bool | datetime | Sequence[str]
"""Python types accepted as values; an int becomes a number."""

From = TypeVar("From")
To = TypeVar("To")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_A_SECOND = 1_000_000
_NANOSECONDS_A_MICROSECOND = 1_000


def to_value(plain: Plain | Value) -> Value:
    """The message for a Python value; a `Value` passes through.

    Raises TypeError for any other type, ValueError for a datetime without a time zone
    and for an int that a double cannot represent.
    """
    if isinstance(plain, Value):
        return plain
    if isinstance(plain, str):
        return Value(string_value=plain)
    if isinstance(plain, bool):
        return Value(bool_value=plain)
    if isinstance(plain, int | float):
        return Value(number_value=to_number(plain))
    if isinstance(plain, datetime):
        return Value(time_value=to_timestamp(plain))
    if plain is None:
        raise TypeError("None is no value; for attributes of users and events it means null")
    untyped: object = plain
    # A mapping or a set is iterable too, and would become a list of its keys.
    if isinstance(untyped, bytes) or not isinstance(untyped, Sequence):
        raise TypeError(
            f"{type(plain).__name__} is no value: expected str, int, float, bool, datetime or a list of str"
        )
    for index, element in enumerate(untyped):
        if not isinstance(element, str):
            raise wrong(f"[{index}]", "a str, as all elements of a list", element)
    return Value(list_value=StringList(values=plain))


def from_value(value: Value) -> str | float | bool | datetime | list[str] | None:
    """The Python value of a message; None when it is empty."""
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "time_value":
        return to_datetime(value.time_value)
    if kind == "list_value":
        return list(value.list_value.values)
    if kind == "string_value":
        return value.string_value
    return value.number_value if kind == "number_value" else value.bool_value


def to_attributes(attributes: Mapping[str, Plain | Value | None]) -> dict[str, Value]:
    """Converts each value into its message. None is null: it unsets an attribute of a user, and is no
    attribute of an event. Errors are those of `to_value`, with the name of the attribute.
    """
    require_mapping("attributes", attributes)
    converted = {}
    for key, plain in attributes.items():
        if not isinstance(key, str):
            raise wrong("attributes", "names that are a str", key)
        try:
            converted[key] = Value() if plain is None else to_value(plain)
        except (TypeError, ValueError) as error:
            raise type(error)(f"attributes[{key!r}]: {error}") from error
    return converted


def to_number(number: float) -> float:
    """The double for a number; ValueError when an int would lose digits, TypeError for anything else."""
    given: object = number
    try:
        # Other kinds of numbers convert themselves.
        double = float(number)
    except (TypeError, ValueError):
        raise TypeError(f"expected a number, not {shown(number)}") from None
    if isinstance(given, str):
        raise TypeError(f"expected a number, not {shown(number)}")
    if double != number and isinstance(number, int):
        raise ValueError(f"{number} cannot be represented exactly as a number; send it as a string")
    return double


def to_timestamp(moment: datetime) -> Timestamp:
    """The message for an instant, to the microsecond. Raises TypeError for anything but a datetime, and
    ValueError when it has no time zone.
    """
    if not isinstance(moment, datetime):
        raise TypeError(
            f"expected a datetime with a time zone, not {shown(moment)}; datetime.fromisoformat reads texts"
        )
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, _MICROSECONDS_A_SECOND)
    return Timestamp(seconds=seconds, nanos=microseconds * _NANOSECONDS_A_MICROSECOND)


def to_datetime(timestamp: Timestamp) -> datetime:
    """The instant in UTC, finer digits than microseconds are dropped."""
    microseconds = timestamp.nanos // _NANOSECONDS_A_MICROSECOND
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=microseconds)


def to_duration(length: timedelta) -> Duration:
    """The message for a duration, to the microsecond; TypeError for anything but a timedelta."""
    if not isinstance(length, timedelta):
        raise TypeError(f"expected a timedelta, not {shown(length)}")
    message = Duration()
    message.FromTimedelta(length)
    return message


def named(argument: str, convert: Callable[[From], To], value: From) -> To:
    """The converted value of an argument; errors name it."""
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}: {error}") from error


def optional(convert: Callable[[From], To], value: From | None, argument: str = "") -> To | None:
    """The converted value; None stays None, which leaves a field of a message unset. Errors name the
    argument.
    """
    if value is None:
        return None
    return named(argument, convert, value) if argument else convert(value)
