"""Python values to the contract's values and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from milepost.v1.value_pb2 import StringList, Value

Plain = str | float | bool | datetime | Sequence[str]
"""What a Python program may give as a value; an int goes as the number it is."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS_A_SECOND = 1_000_000
_NANOSECONDS_A_MICROSECOND = 1_000


def to_value(plain: Plain | Value) -> Value:
    """The message for a Python value; a `Value` passes through.

    Raises TypeError for anything else (the message refuses it), ValueError for a datetime without a time zone
    and for an int that a double cannot hold.
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


def to_attributes(attributes: Mapping[str, Plain | Value]) -> dict[str, Value]:
    """Each value turned into its message."""
    return {key: to_value(plain) for key, plain in attributes.items()}


def to_number(number: float) -> float:
    """The double for a number; ValueError when an int would lose digits."""
    double = float(number)
    if double != number and isinstance(number, int):
        raise ValueError(f"{number} has no exact double: send it as a string")
    return double


def to_timestamp(moment: datetime) -> Timestamp:
    """The message for an instant, to the microsecond; ValueError when it has no time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    seconds, microseconds = divmod((moment - _EPOCH) // _MICROSECOND, _MICROSECONDS_A_SECOND)
    return Timestamp(seconds=seconds, nanos=microseconds * _NANOSECONDS_A_MICROSECOND)


def to_datetime(timestamp: Timestamp) -> datetime:
    """The instant in UTC, finer digits than microseconds cut off."""
    microseconds = timestamp.nanos // _NANOSECONDS_A_MICROSECOND
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=microseconds)


def to_duration(length: timedelta) -> Duration:
    """The message for a length of time, to the microsecond."""
    message = Duration()
    message.FromTimedelta(length)
    return message
