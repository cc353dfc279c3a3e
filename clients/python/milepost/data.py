"""Events and user updates from Python values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from milepost._arguments import require_mapping, require_several, require_text
from milepost.v1.data_pb2 import EVENT_TYPE_UNSPECIFIED, ConsentUpdate, Event, EventType, UserUpdate
from milepost.values import Plain, named, to_attributes, to_timestamp


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

    Raises TypeError for an argument of another type, ValueError for a value that cannot be stored.
    """
    require_text(user_id=user_id, name=name, event_id=event_id, input=input)
    return Event(
        user_id=user_id,
        input=input,
        name=name,
        event_type=type,
        time=named("time", to_timestamp, time),
        attributes=to_attributes({} if attributes is None else attributes),
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
    """Makes a user update as of `time`. Default: the service's clock.

    Raises TypeError for an argument of another type, ValueError for a value that cannot be stored.
    """
    require_text(user_id=user_id, input=input)
    require_several(unset=unset, consents=consents)
    require_mapping("identities", identities or {})
    for kind, identity in (identities or {}).items():
        require_text(**{f"identities[{kind!r}]": identity})
    return UserUpdate(
        user_id=user_id,
        input=input,
        time=None if time is None else named("time", to_timestamp, time),
        attributes=to_attributes({} if attributes is None else attributes),
        unset_attributes=unset,
        identities=identities or {},
        consents=consents,
    )
