"""Attribute values, in both directions."""

from __future__ import annotations

from engine.values import Value
from milepost.v1 import value_pb2
from service.convert.faults import ShapeFaults
from service.convert.times import OUT_OF_RANGE, instant, micros_of, timestamp

NO_KIND = (
    "must have exactly one of string_value, number_value, bool_value, time_value, list_value; "
    "for users without a value, put `not` around `exists`"
)


class BadValue(ValueError):
    """A value that attributes cannot have. The message gives the reason."""


def value_of(message: value_pb2.Value) -> Value:
    """The value in the message. Raises BadValue.

    Called for every event: a non-empty string or number is recognised without the slower query for the set
    field of the oneof.
    """
    text = message.string_value
    if text:
        return text
    number = message.number_value
    if number:
        return number
    kind = message.WhichOneof("kind")
    if kind == "string_value":
        return ""
    if kind == "number_value":
        return number
    if kind == "bool_value":
        return message.bool_value
    if kind == "list_value":
        return tuple(message.list_value.values)
    if kind == "time_value":
        micros = micros_of(message.time_value)
        if micros is None:
            raise BadValue(OUT_OF_RANGE)
        return micros
    raise BadValue(NO_KIND)


def value_at(message: value_pb2.Value, path: str, faults: ShapeFaults) -> Value:
    """The value in the message. Adds a fault and returns "" when it has none."""
    if message.WhichOneof("kind") == "time_value":
        return instant(message.time_value, path, faults)
    try:
        return value_of(message)
    except BadValue as error:
        faults.add(path, str(error))
        return ""


def fill_value(message: value_pb2.Value, value: Value) -> None:
    """Writes the value into an empty message."""
    if type(value) is str:
        message.string_value = value
    elif type(value) is float:
        message.number_value = value
    elif type(value) is bool:
        message.bool_value = value
    elif type(value) is int:
        message.time_value.CopyFrom(timestamp(value))
    elif type(value) is tuple:
        # An empty list is a value too; without this the oneof would stay unset.
        message.list_value.SetInParent()
        message.list_value.values.extend(value)


def value_message(value: Value) -> value_pb2.Value:
    """The message for a value."""
    message = value_pb2.Value()
    fill_value(message, value)
    return message
