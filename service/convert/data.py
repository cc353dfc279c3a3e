"""Events, user updates and users.

`event_records` runs for every event, so it reads each field once and accesses messages as little as possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from engine.backends.base import EventRecord, Profile, UserRecord
from engine.checks import (
    Fault,
    attribute_count_fault,
    consent_count_fault,
    identity_count_fault,
    list_length_fault,
)
from engine.criteria.model import ConsentState, EventType
from engine.ingest import Rejection
from engine.limits import DEFAULT_LIMITS, Limits
from engine.values import MICROS_PER_SECOND, Micros, Value
from milepost.v1 import catalog_service_pb2, data_pb2, ingest_service_pb2, value_pb2
from service.convert.criteria import CONSENT_STATE_MESSAGES, CONSENT_STATES
from service.convert.times import (
    NANOS_PER_MICRO,
    NANOS_PER_SECOND,
    OUT_OF_RANGE,
    SECONDS_MAX,
    SECONDS_MIN,
    micros_of,
    timestamp,
)
from service.convert.values import BadValue, fill_value, value_of

REQUIRED = "REQUIRED"
INVALID_VALUE = "INVALID_VALUE"
TIME_MISSING = "is required"
UNKNOWN_TYPE = "is not an event type"
NO_CONSENT_STATE = "must be GIVEN or DENIED"

EVENT_TYPES = {int(member): member for member in EventType} | {0: EventType.CUSTOM}
"""By number; one that is not given is a CUSTOM event."""


class Malformed(ValueError):
    """A malformed row: the path of the field within the row, and the fault."""

    def __init__(self, field: str, description: str, reason: str = INVALID_VALUE) -> None:
        super().__init__(description)
        self.field = field
        self.reason = reason


def event_records(
    messages: Iterable[data_pb2.Event], input_: str, limits: Limits = DEFAULT_LIMITS
) -> list[EventRecord | Rejection]:
    """A record or a Rejection per event, in order. `input_` applies to events without one."""
    rows: list[EventRecord | Rejection] = []
    for message in messages:
        try:
            rows.append(_event(message, input_, limits))
        except Malformed as error:
            rows.append(rejection_of("events", len(rows), error))
    return rows


def _event(message: data_pb2.Event, input_: str, limits: Limits) -> EventRecord:
    attributes: dict[str, Value] = {}
    given = attributes_of(message, limits)
    for key, value in given.items():
        # The two common kinds first, without a call: see `value_of`.
        text = value.string_value
        if text:
            attributes[key] = text
            continue
        number = value.number_value
        if number:
            attributes[key] = number
            continue
        other = attribute_value(key, value, limits)
        if other is not None:
            attributes[key] = other
    time = event_time(message)
    return EventRecord(
        message.user_id,
        message.input or input_,
        message.name,
        event_type(message),
        time,
        attributes,
        message.event_id,
    )


def event_time(message: data_pb2.Event) -> Micros:
    """The time of the event. Raises Malformed."""
    time = message.time
    seconds, nanos = time.seconds, time.nanos
    if not (seconds or nanos) and not message.HasField("time"):
        raise Malformed("time", TIME_MISSING, REQUIRED)
    if not (SECONDS_MIN <= seconds <= SECONDS_MAX and 0 <= nanos < NANOS_PER_SECOND):
        raise Malformed("time", OUT_OF_RANGE)
    return seconds * MICROS_PER_SECOND + nanos // NANOS_PER_MICRO


def event_type(message: data_pb2.Event) -> EventType:
    """The type of an event. Unspecified = CUSTOM. Raises Malformed."""
    type_ = EVENT_TYPES.get(message.event_type)
    if type_ is None:
        raise Malformed("type", UNKNOWN_TYPE)
    return type_


def user_records(
    messages: Iterable[data_pb2.UserUpdate], input_: str, now: Micros, limits: Limits = DEFAULT_LIMITS
) -> list[UserRecord | Rejection]:
    """A record or a Rejection per update, in order. Updates without a time get `now`."""
    rows: list[UserRecord | Rejection] = []
    for message in messages:
        try:
            rows.append(_user(message, input_, now, limits))
        except Malformed as error:
            rows.append(rejection_of("users", len(rows), error))
    return rows


def _user(message: data_pb2.UserUpdate, input_: str, now: Micros, limits: Limits) -> UserRecord:
    _check_lengths(message, limits)
    time = now
    if message.HasField("time"):
        micros = micros_of(message.time)
        if micros is None:
            raise Malformed("time", OUT_OF_RANGE)
        time = micros
    attributes: dict[str, Value | None] = dict.fromkeys(message.unset_attributes)
    for key, value in message.attributes.items():
        set_to = attribute_value(key, value, limits)
        if set_to is not None and key in attributes:
            raise Malformed(f"attributes[{key!r}]", "is both set and unset")
        attributes[key] = set_to
    identities: dict[str, str | None] = dict.fromkeys(message.unset_identities)
    for key, identity in message.identities.items():
        if key in identities:
            raise Malformed(f"identities[{key!r}]", "is both set and unset")
        identities[key] = identity
    consents: dict[tuple[str, str], ConsentState] = {}
    for index, consent in enumerate(message.consents):
        state = CONSENT_STATES.get(consent.state)
        if state is None:
            raise Malformed(f"consents[{index}].state", NO_CONSENT_STATE)
        consents[consent.regulation, consent.purpose] = state
    return UserRecord(message.user_id, message.input or input_, time, attributes, identities, consents)


def attributes_of(message: data_pb2.Event, limits: Limits) -> Mapping[str, value_pb2.Value]:
    """The attributes of an event, null ones included. Raises Malformed for too many, before any is read."""
    given = message.attributes
    _raise_any(attribute_count_fault(len(given), limits))
    return given


def _check_lengths(message: data_pb2.UserUpdate, limits: Limits) -> None:
    """Raises Malformed for too many attributes, identities or consents, before any is read."""
    _raise_any(attribute_count_fault(len(message.attributes) + len(message.unset_attributes), limits))
    _raise_any(identity_count_fault(len(message.identities) + len(message.unset_identities)))
    _raise_any(consent_count_fault(len(message.consents)))


def _raise_any(fault: Fault | None) -> None:
    if fault is not None:
        reason, field, description = fault
        raise Malformed(field, description, reason)


def attribute_value(key: str, message: value_pb2.Value, limits: Limits = DEFAULT_LIMITS) -> Value | None:
    """The value of an attribute; None for null, a message without a kind. Raises Malformed."""
    kind = message.WhichOneof("kind")
    if kind is None:
        return None
    if kind == "list_value":
        length = len(message.list_value.values)
        _raise_any(list_length_fault(f"attributes[{key!r}]", length, limits))
    try:
        return value_of(message)
    except BadValue as error:
        raise Malformed(f"attributes[{key!r}]", str(error)) from error


def rejection_of(rows: str, index: int, error: Malformed) -> Rejection:
    """The Rejection of the row at an index of `events` or `users`."""
    return Rejection(index, error.reason, f"{rows}[{index}].{error.field}", str(error))


def rejection_messages(rejections: Iterable[Rejection]) -> list[ingest_service_pb2.Rejection]:
    """The messages of rejected rows."""
    return [
        ingest_service_pb2.Rejection(index=r.index, reason=r.reason, field=r.field, description=r.description)
        for r in rejections
    ]


def user_message(profile: Profile) -> catalog_service_pb2.User:
    """Everything stored about a user except events."""
    message = catalog_service_pb2.User(user_id=profile.user_id)
    for input_, (first, last) in sorted(profile.seen.items()):
        message.inputs.add(input=input_, first_seen=timestamp(first), last_seen=timestamp(last))
    for workspace, attributes in sorted(profile.attributes.items()):
        of_workspace = message.attributes.add(workspace=workspace)
        for key, (_, value) in attributes.items():
            fill_value(of_workspace.attributes[key], value)
    for identity, (_, text) in profile.identities.items():
        message.identities[identity] = text
    for (regulation, purpose), (_, state) in sorted(profile.consents.items()):
        message.consents.add(regulation=regulation, purpose=purpose, state=CONSENT_STATE_MESSAGES[state])
    return message
