"""The catalog's entries as messages."""

from __future__ import annotations

from engine.backends.base import AttributeFacts, EventNameFacts, ValueCount
from engine.values import Kind
from milepost.v1 import catalog_service_pb2 as pb
from milepost.v1 import data_pb2
from service.convert.enums import numbers_of
from service.convert.times import timestamp
from service.convert.values import value_message

_VALUE_KINDS = numbers_of(pb.ValueKind, Kind)


def event_name_message(facts: EventNameFacts) -> pb.EventName:
    """The message for an event name."""
    return pb.EventName(
        name=facts.name,
        # The numbers of the types are those of the contract.
        event_type=data_pb2.EventType.ValueType(facts.type),
        input=facts.input,
        events=facts.events,
        users=facts.users,
        first_time=timestamp(facts.first_time),
        last_time=timestamp(facts.last_time),
    )


def attribute_message(facts: AttributeFacts) -> pb.Attribute:
    """The message for an attribute of users or of events."""
    return pb.Attribute(
        key=facts.key,
        workspace=facts.workspace,
        event_name=facts.event_name,
        kinds=[_VALUE_KINDS[kind] for kind in facts.kinds],
        users=facts.users,
        first_time=timestamp(facts.first_time),
        last_time=timestamp(facts.last_time),
    )


def value_count_message(count: ValueCount) -> pb.ValueCount:
    """The message for a value."""
    return pb.ValueCount(value=value_message(count.value), users=count.users, events=count.events)
