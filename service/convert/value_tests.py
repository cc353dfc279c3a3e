"""Tests on values and on numbers, both ways."""

from __future__ import annotations

from collections.abc import Callable
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
from engine.values import Micros
from milepost.v1 import criteria_pb2, value_pb2
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message
from service.convert.values import fill_value, value_at, value_message

NO_TEST = "must have exactly one test"
NO_COMPARISON = "must have exactly one comparison"
NOT_ORDERED = "must be a number or a time: nothing else has an order"


def value_test(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    """The test in the message; when it has none, a fault is noted and the answer is `Exists()`."""
    field = message.WhichOneof("test")
    if field is None:
        faults.add(path, NO_TEST)
        return Exists()
    return _READERS[field](message, f"{path}.{field}", faults)


def _exists(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    return Exists()


def _equals(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    return Equals(value_at(message.equals, path, faults), message.ignore_case)


def _in(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    # `in` is a keyword of Python, so the field has no attribute to read.
    values = getattr(message, "in").values
    converted = (value_at(value, f"{path}.values[{i}]", faults) for i, value in enumerate(values))
    return In(tuple(converted), message.ignore_case)


def _between(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    low = _ordered(message.between.low, f"{path}.low", faults)
    return Between(low, _ordered(message.between.high, f"{path}.high", faults))


def _semver(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    comparison = message.semver.WhichOneof("comparison")
    if comparison is None:
        faults.add(path, NO_COMPARISON)
        return Exists()
    return Semver(comparison, getattr(message.semver, comparison))


def _near(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    near = message.near
    return Near(near.latitude, near.longitude, near.meters)


def _within_last(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    return WithinLast(duration(message.within_last, path, faults))


def _older_than(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    return OlderThan(duration(message.older_than, path, faults))


def _compare(op: Any) -> Callable[[criteria_pb2.ValueTest, str, ShapeFaults], ValueTest]:
    def read(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
        return Compare(op, _ordered(getattr(message, op), path, faults))

    return read


def _text(op: Any) -> Callable[[criteria_pb2.ValueTest, str, ShapeFaults], ValueTest]:
    def read(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
        return Text(op, getattr(message, op), message.ignore_case)

    return read


COMPARE_OPS = ("greater_than", "greater_or_equal", "less_than", "less_or_equal")
TEXT_OPS = ("contains", "starts_with", "ends_with", "glob", "matches")

_READERS: dict[str, Callable[[criteria_pb2.ValueTest, str, ShapeFaults], ValueTest]] = {
    "exists": _exists,
    "equals": _equals,
    "in": _in,
    "between": _between,
    "semver": _semver,
    "within_last": _within_last,
    "older_than": _older_than,
    "near": _near,
    **{op: _compare(op) for op in COMPARE_OPS},
    **{op: _text(op) for op in TEXT_OPS},
}


def _ordered(message: value_pb2.Value, path: str, faults: ShapeFaults) -> float | Micros:
    if message.WhichOneof("kind") is None:
        faults.add(path, NOT_ORDERED)
        return 0.0
    value = value_at(message, path, faults)
    if type(value) is float or type(value) is int:
        return value
    faults.add(path, NOT_ORDERED)
    return 0.0


def value_test_message(test: ValueTest) -> criteria_pb2.ValueTest:
    """The message for a test."""
    message = criteria_pb2.ValueTest()
    match test:
        case Exists():
            message.exists.SetInParent()
        case Equals():
            message.equals.CopyFrom(value_message(test.value))
            message.ignore_case = test.ignore_case
        case In():
            values = getattr(message, "in")
            values.SetInParent()
            for value in test.values:
                fill_value(values.values.add(), value)
            message.ignore_case = test.ignore_case
        case Compare():
            fill_value(getattr(message, test.op), test.operand)
        case Between():
            fill_value(message.between.low, test.low)
            fill_value(message.between.high, test.high)
        case Text():
            setattr(message, test.op, test.pattern)
            message.ignore_case = test.ignore_case
        case Semver():
            setattr(message.semver, test.op, test.version)
        case WithinLast():
            message.within_last.CopyFrom(duration_message(test.duration))
        case OlderThan():
            message.older_than.CopyFrom(duration_message(test.duration))
        case Near():
            message.near.SetInParent()
            message.near.latitude = test.latitude
            message.near.longitude = test.longitude
            message.near.meters = test.meters
    return message


def number_test(message: criteria_pb2.NumberTest, path: str, faults: ShapeFaults) -> NumberTest:
    """The test in the message; when it has none, a fault is noted and the answer is `Equals(0)`."""
    field = message.WhichOneof("test")
    match field:
        case "equals":
            return Equals(message.equals)
        case "in":
            return In(tuple(getattr(message, "in").values))
        case "between":
            return Between(message.between.low, message.between.high)
        case "greater_than" | "greater_or_equal" | "less_than" | "less_or_equal":
            return Compare(field, getattr(message, field))
    faults.add(path, NO_TEST)
    return Equals(0.0)


def number_test_message(test: NumberTest) -> criteria_pb2.NumberTest:
    """The message for a test on a number."""
    message = criteria_pb2.NumberTest()
    match test:
        case Equals():
            message.equals = _number(test.value)
        case In():
            values = getattr(message, "in")
            values.SetInParent()
            values.values.extend(_number(value) for value in test.values)
        case Compare():
            setattr(message, test.op, _number(test.operand))
        case Between():
            message.between.SetInParent()
            message.between.low = _number(test.low)
            message.between.high = _number(test.high)
    return message


def _number(value: object) -> float:
    # Validation lets only numbers into the test of an aggregate.
    assert type(value) is float
    return value
