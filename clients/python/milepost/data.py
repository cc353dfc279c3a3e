"""Events and user updates from Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from milepost.v1.data_pb2 import EVENT_TYPE_UNSPECIFIED, ConsentUpdate, Event, EventType, UserUpdate
from milepost.values import Plain, to_attributes, to_timestamp


def make_event(
    user_id: str,
    name: str,
    time: datetime,
    attributes: Mapping[str, Plain | None] | None = None,
    *,
    event_id: str = "",
    input: str = "",
    type: EventType.ValueType = EVENT_TYPE_UNSPECIFIED,
) -> Event:
    """Makes an event. With an `event_id` it is stored once, however often it is sent.

    >>> from datetime import UTC
    >>> made = make_event("ann", "buy", datetime(2026, 1, 1, tzinfo=UTC), {"price": 9.5})
    >>> made.attributes["price"].number_value
    9.5
    """
    return Event(
        user_id=user_id,
        input=input,
        name=name,
        event_type=type,
        time=to_timestamp(time),
        attributes=to_attributes(attributes or {}),
        event_id=event_id,
    )


def make_user_update(
    user_id: str,
    attributes: Mapping[str, Plain | None] | None = None,
    *,
    time: datetime | None = None,
    unset: Iterable[str] = (),
    identities: Mapping[str, str] | None = None,
    consents: Iterable[ConsentUpdate] = (),
    input: str = "",
) -> UserUpdate:
    """Makes a user update as of `time`. Default: the service's clock."""
    return UserUpdate(
        user_id=user_id,
        input=input,
        time=None if time is None else to_timestamp(time),
        attributes=to_attributes(attributes or {}),
        unset_attributes=unset,
        identities=identities or {},
        consents=consents,
    )
