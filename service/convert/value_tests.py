"""Tests on values and on numbers, in both directions.

Tests on values are converted by the shape of the message and of the operator's struct, so a new operator
needs no code here. The set field of `ValueTest` selects the struct. Its operand is the field itself, a
message with a field for each operand, or a message with a oneof whose set field is the `op`.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from engine.criteria.model import Between, Compare, Equals, Exists, In, NumberTest, ValueTest
from engine.criteria.operators.base import IGNORE_CASE
from engine.values import Micros
from milepost.v1 import criteria_pb2, value_pb2
from milepost.written_form import written_name
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message
from service.convert.values import fill_value, value_at

NO_TEST = "must have exactly one test"
NO_COMPARISON = "must have exactly one comparison"
NOT_ORDERED = "must be a number or a time"
CASE_DOES_NOT_APPLY = "does not apply to this test; leave it out"

OPERATORS: dict[str, type[ValueTest]] = {
    field: struct for struct in get_args(ValueTest) for field in struct.fields()
}
"""The struct for each field of the message, by the name the field has in documents."""

_FIELDS = {written_name(field): field for field in criteria_pb2.ValueTest.DESCRIPTOR.fields}
_ORDERED = float | Micros


def value_test(message: criteria_pb2.ValueTest, path: str, faults: ShapeFaults) -> ValueTest:
    """The test in the message. Adds a fault and returns `Exists()` when it has none."""
    chosen: str | None = message.WhichOneof("test")
    if chosen is None:
        faults.add(path, NO_TEST)
        return Exists()
    written = written_name(message.DESCRIPTOR.fields_by_name[chosen])
    struct = OPERATORS[written]
    if message.ignore_case and IGNORE_CASE not in struct.__struct_fields__:
        faults.add(f"{path}.{IGNORE_CASE}", CASE_DOES_NOT_APPLY)
    path = f"{path}.{written}"
    holder: Message = message
    if _has_operands_inside(_FIELDS[written]):
        holder = getattr(message, chosen)
        if holder.DESCRIPTOR.oneofs:
            chosen = holder.WhichOneof(holder.DESCRIPTOR.oneofs[0].name)
            if chosen is None:
                faults.add(path, NO_COMPARISON)
                return Exists()
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        if field.name == "op":
            found[field.name] = chosen
        elif field.name == IGNORE_CASE:
            found[field.name] = message.ignore_case
        elif _is_named(holder, field.name):
            found[field.name] = _read(holder, field.name, field.type, f"{path}.{field.name}", faults)
        else:
            found[field.name] = _read(holder, chosen, field.type, path, faults)
    return struct(**found)


def value_test_message(test: ValueTest) -> criteria_pb2.ValueTest:
    """The message for a test."""
    message = criteria_pb2.ValueTest()
    written, _, comparison = test.field.partition(".")
    chosen = _FIELDS[written]
    holder: Message = message
    if _has_operands_inside(chosen):
        holder = getattr(message, chosen.name)
        # A message without any set field is also a test.
        holder.SetInParent()
    for name in test.__struct_fields__:
        operand = getattr(test, name)
        if name == IGNORE_CASE:
            message.ignore_case = operand
        elif name != "op":
            _fill(holder, name if _is_named(holder, name) else comparison or chosen.name, operand)
    return message


def _has_operands_inside(field: FieldDescriptor) -> bool:
    """Whether the field holds a message whose fields are the operands."""
    operands = (value_pb2.Value.DESCRIPTOR, Duration.DESCRIPTOR)
    return field.message_type is not None and field.message_type not in operands


def _is_named(holder: Message, operand: str) -> bool:
    """Whether the operand has its own field in the message inside the test."""
    inside = holder.DESCRIPTOR is not criteria_pb2.ValueTest.DESCRIPTOR
    return inside and operand in holder.DESCRIPTOR.fields_by_name


def _read(holder: Message, name: str, wanted: Any, path: str, faults: ShapeFaults) -> Any:
    found = getattr(holder, name)
    if isinstance(found, value_pb2.Value):
        return _ordered(found, path, faults) if wanted == _ORDERED else value_at(found, path, faults)
    if isinstance(found, Duration):
        return duration(found, path, faults)
    if holder.DESCRIPTOR.fields_by_name[name].is_repeated:
        return tuple(value_at(value, f"{path}[{i}]", faults) for i, value in enumerate(found))
    return found


def _fill(holder: Message, name: str, operand: Any) -> None:
    field = holder.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        for value in operand:
            fill_value(getattr(holder, name).add(), value)
    elif field.message_type is value_pb2.Value.DESCRIPTOR:
        fill_value(getattr(holder, name), operand)
    elif field.message_type is Duration.DESCRIPTOR:
        getattr(holder, name).CopyFrom(duration_message(operand))
    else:
        setattr(holder, name, operand)


def _ordered(message: value_pb2.Value, path: str, faults: ShapeFaults) -> float | Micros:
    if message.WhichOneof("kind") is None:
        faults.add(path, NOT_ORDERED)
        return 0.0
    value = value_at(message, path, faults)
    if type(value) is float or type(value) is int:
        return value
    faults.add(path, NOT_ORDERED)
    return 0.0


def number_test(message: criteria_pb2.NumberTest, path: str, faults: ShapeFaults) -> NumberTest:
    """The test in the message. Adds a fault and returns `Equals(0)` when it has none."""
    field = message.WhichOneof("test")
    match field:
        case "equals":
            return Equals(message.equals)
        case "one_of":
            return In(tuple(message.one_of.values))
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
            message.one_of.SetInParent()
            message.one_of.values.extend(_number(value) for value in test.values)
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
