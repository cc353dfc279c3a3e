"""Outputs and connections, in both directions."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from engine.audiences.delivery_status import DeliveryStatus
from engine.errors import InvalidInput
from engine.resources.records import (
    BATCH_AGE_DEFAULT_MICROS,
    BATCH_CHANGES_DEFAULT,
    ChangeKind,
    Connection,
    ConnectionState,
    Output,
    etag_of,
)
from engine.resources.targets import TARGETS, ContentMode, SaslMechanism, Target
from engine.values import Micros
from milepost.v1 import connection_pb2
from milepost.v1.connection_service_pb2 import UpdateOutputRequest
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message, timestamp

NO_KIND = f"must have exactly one of {', '.join(TARGETS)}"

_NUMBERS: dict[enum.Enum, int] = {
    **numbers_of(connection_pb2.ContentMode, ContentMode),
    **numbers_of(connection_pb2.SaslMechanism, SaslMechanism),
}
_MEMBERS: dict[str, Mapping[int, enum.Enum]] = {
    "ContentMode": members_of(connection_pb2.ContentMode, ContentMode),
    "SaslMechanism": members_of(connection_pb2.SaslMechanism, SaslMechanism),
}
"""The enums of targets, by their name in the contract."""
_STATE_MESSAGES = numbers_of(connection_pb2.ConnectionState, ConnectionState)
_KIND_MESSAGES = numbers_of(connection_pb2.ChangeKind, ChangeKind)
_KINDS = members_of(connection_pb2.ChangeKind, ChangeKind)


def output_of_message(message: connection_pb2.Output, *, needs_kind: bool = True) -> Output:
    """The record of an output. Raises InvalidInput without a kind.

    An update that leaves the kind as it is needs none; the target of its record means nothing.
    """
    kind = message.WhichOneof("kind")
    if kind is None and needs_kind:
        raise InvalidInput.one("output", NO_KIND)
    target = _target(message, kind or next(iter(TARGETS)))
    return Output(name=message.name, display_name=message.display_name, target=target)


def _target(message: connection_pb2.Output, kind: str) -> Target:
    given, struct = getattr(message, kind), TARGETS[kind]
    fields = [field for field in struct.__struct_fields__ if not _is_default(given, field)]
    return struct(**{field: _given(given, kind, field) for field in fields})


def _is_default(message: Message, field: str) -> bool:
    """Whether an enum is not set: each kind has a default of its own."""
    is_enum = message.DESCRIPTOR.fields_by_name[field].enum_type is not None
    return is_enum and getattr(message, field) == 0


def _given(message: Message, kind: str, field: str) -> Any:
    """The value of a target's field. Raises InvalidInput for a malformed one."""
    value, path = getattr(message, field), f"output.{kind}.{field}"
    enum_type = message.DESCRIPTOR.fields_by_name[field].enum_type
    if enum_type is not None:
        members = _MEMBERS[enum_type.name]
        if value not in members:
            raise InvalidInput.one(path, f"is not a {enum_type.name}")
        return members[value]
    if not isinstance(value, Duration):
        return value
    faults = ShapeFaults()
    micros = duration(value, path, faults)
    faults.raise_if_any()
    return micros


def output_message(output: Output) -> connection_pb2.Output:
    """The message of an output, without secrets."""
    message = connection_pb2.Output(
        name=output.name,
        display_name=output.display_name,
        create_time=timestamp(output.create_time),
        update_time=timestamp(output.update_time),
        etag=etag_of(output),
    )
    if output.previous_secrets:
        message.previous_secret_expire_time.CopyFrom(timestamp(output.previous_expire_time))
    target = getattr(message, output.target.kind())
    target.SetInParent()
    for field, value in output.target.shown().items():
        _show(target, field, value)
    return message


def _show(target: Message, field: str, value: Any) -> None:
    """Sets the field of a kind's message to the value of its target."""
    if isinstance(value, enum.Enum):
        setattr(target, field, _NUMBERS[value])
    elif not isinstance(getattr(target, field), Duration):
        setattr(target, field, value)
    elif value:
        getattr(target, field).CopyFrom(duration_message(value))


def secret_overlap(request: UpdateOutputRequest) -> Micros | None:
    """How long the previous secret stays valid; None when the request does not say. Raises InvalidInput."""
    if not request.HasField("secret_overlap"):
        return None
    faults = ShapeFaults()
    overlap = duration(request.secret_overlap, "secret_overlap", faults)
    faults.raise_if_any()
    return overlap


def connection_of_message(message: connection_pb2.Connection) -> Connection:
    """The record of a connection. Raises InvalidInput."""
    batching, age = message.batching, BATCH_AGE_DEFAULT_MICROS
    if batching.HasField("max_age"):
        faults = ShapeFaults()
        age = duration(batching.max_age, "connection.batching.max_age", faults)
        faults.raise_if_any()
    return Connection(
        name=message.name,
        audience=message.audience,
        output=message.output,
        identities=tuple(message.identities),
        attributes=tuple(message.attributes),
        hashed_identities=tuple(message.hashed_identities),
        hashed_attributes=tuple(message.hashed_attributes),
        kinds=_kinds(message),
        batch_changes=batching.max_changes or BATCH_CHANGES_DEFAULT,
        batch_age=age,
        exits_on_deactivation=message.exits_on_deactivation,
    )


def _kinds(message: connection_pb2.Connection) -> tuple[ChangeKind, ...]:
    faults = ShapeFaults()
    for index, number in enumerate(message.kinds):
        if number not in _KINDS:
            faults.add(f"connection.kinds[{index}]", "must be a kind of change")
    faults.raise_if_any()
    return tuple(_KINDS[number] for number in message.kinds)


def connection_message(connection: Connection, status: DeliveryStatus) -> connection_pb2.Connection:
    """The message for a connection."""
    is_delivering = connection.state is not ConnectionState.INACTIVE or connection.exiting
    return connection_pb2.Connection(
        name=connection.name,
        audience=connection.audience,
        output=connection.output,
        state=_STATE_MESSAGES[connection.state],
        identities=connection.identities,
        attributes=connection.attributes,
        hashed_identities=connection.hashed_identities,
        hashed_attributes=connection.hashed_attributes,
        paused=connection.paused,
        kinds=[_KIND_MESSAGES[kind] for kind in connection.kinds],
        batching=connection_pb2.Batching(
            max_changes=connection.batch_changes, max_age=duration_message(connection.batch_age)
        ),
        delivered_sequence=connection.delivered,
        fault=connection.fault,
        create_time=timestamp(connection.create_time),
        update_time=timestamp(connection.update_time),
        etag=etag_of(connection),
        activation=connection.activation,
        epoch=connection.epoch,
        exits_on_deactivation=connection.exits_on_deactivation,
        exiting=connection.exiting,
        delivery=_status_message(status) if is_delivering else None,
    )


def _status_message(status: DeliveryStatus) -> connection_pb2.DeliveryStatus:
    return connection_pb2.DeliveryStatus(
        pending_changes=status.pending_changes,
        pending_snapshot=status.pending_snapshot,
        lag=duration_message(status.lag),
        changes_per_second=status.changes_per_second,
        last_success_time=timestamp(status.last_success) if status.last_success else None,
        last_error=status.error,
        last_error_time=timestamp(status.error_time) if status.error else None,
        failures=status.failures,
    )
