"""The canonical form in which the service returns criteria, without redundant or implicit fields.

Criteria with the same normal form are saved as the same criteria, so an applied document does not differ from
the saved journey.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from milepost.v1.criteria_pb2 import (
    AGGREGATE_COUNT,
    BetweenAgo,
    CalendarWindow,
    EventCriterion,
)

M = TypeVar("M", bound=Message)

_NANOSECONDS_A_MICROSECOND = 1_000


def normal_form(message: M) -> M:
    """A copy in normal form."""
    copy = type(message)()
    copy.CopyFrom(message)
    _make_normal(copy)
    return copy


def _make_normal(message: Message) -> None:
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else [value]:
                _make_normal(child)
    rule = _RULES.get(message.DESCRIPTOR.full_name)
    if rule is not None:
        rule(message)


def _event(event: EventCriterion) -> None:
    if event.aggregate == AGGREGATE_COUNT:
        event.ClearField("aggregate")


def _calendar(window: CalendarWindow) -> None:
    window.count = window.count or 1


def _between_ago(window: BetweenAgo) -> None:
    window.to_age.SetInParent()


def _timestamp(instant: Timestamp) -> None:
    instant.nanos -= instant.nanos % _NANOSECONDS_A_MICROSECOND


def _duration(length: Duration) -> None:
    whole = abs(length.nanos) // _NANOSECONDS_A_MICROSECOND * _NANOSECONDS_A_MICROSECOND
    length.nanos = -whole if length.nanos < 0 else whole


_RULES: dict[str, Callable[[Any], None]] = {
    "milepost.v1.EventCriterion": _event,
    "milepost.v1.CalendarWindow": _calendar,
    "milepost.v1.BetweenAgo": _between_ago,
    "google.protobuf.Timestamp": _timestamp,
    "google.protobuf.Duration": _duration,
}
