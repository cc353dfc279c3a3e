"""CloudEvents 1.0, structured JSON, of membership changes.

`source` is the audience. `id` names the change within it and is the same for every attempt, so consumers
recognise duplicates by `source` and `id`, as the specification says. `subject` is the user id and `time` the
instant the change holds for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from engine.audiences.deliveries import Delivery
from engine.backends.base import Change, Profile
from engine.resources.records import journey_of
from engine.values import Micros, Value
from service.convert.times import rfc3339
from service.delivery.sinks.sink import Event

SPEC_VERSION = "1.0"
ENTERED = "milepost.membership.entered"
EXITED = "milepost.membership.exited"

ProfileOf = Callable[[str], Profile | None]


def cloud_event(delivery: Delivery, change: Change, snapshot: bool, profile_of: ProfileOf) -> Event:
    """The event for a change; `snapshot` for a member at activation."""
    as_of = rfc3339(change.as_of)
    data: dict[str, Any] = {
        "audience": delivery.audience.name,
        "display_name": delivery.milestone.display_name,
        "external_name": delivery.audience.external_name,
        "milestone": delivery.milestone.name,
        "journey": journey_of(delivery.milestone.name),
        "user_id": change.user_id,
        "entered": change.entered,
        "sequence": change.sequence,
        "as_of": as_of,
        **_opted_in(delivery, change.user_id, profile_of),
    }
    event_id = _event_id(delivery, change, snapshot)
    body = {
        "specversion": SPEC_VERSION,
        "id": event_id,
        "source": f"/{delivery.audience.name}",
        "type": ENTERED if change.entered else EXITED,
        "subject": change.user_id,
        "time": as_of,
        "datacontenttype": "application/json",
        "data": data,
    }
    return Event(event_id, msgspec.json.encode(body))


def _event_id(delivery: Delivery, change: Change, snapshot: bool) -> str:
    """Names the change. Sequences restart when a membership is recalculated, hence the instant; members at
    activation share one sequence, hence the activation and the user.
    """
    if snapshot:
        return f"{change.sequence}.{delivery.connection.update_time:x}.{change.user_id}"
    return f"{change.sequence}.{change.as_of:x}"


def _opted_in(delivery: Delivery, user_id: str, profile_of: ProfileOf) -> dict[str, Any]:
    connection = delivery.connection
    if not connection.identities and not connection.attributes:
        return {}
    profile = profile_of(user_id)
    return {
        "identities": {} if profile is None else _identities(profile, connection.identities),
        "attributes": {} if profile is None else _attributes(profile, connection.attributes),
    }


def _identities(profile: Profile, types: tuple[str, ...]) -> dict[str, str]:
    return {type_: profile.identities[type_][1] for type_ in types if type_ in profile.identities}


def _attributes(profile: Profile, keys: tuple[str, ...]) -> dict[str, Any]:
    """The selected attributes; for one in several workspaces, the value written last."""
    latest: dict[str, tuple[Micros, Value]] = {}
    for _, attributes in sorted(profile.attributes.items()):
        for key in keys:
            write = attributes.get(key)
            if write is not None and (key not in latest or write[0] > latest[key][0]):
                latest[key] = write
    return {key: _json_value(value) for key, (_, value) in latest.items()}


def _json_value(value: Value) -> Any:
    return rfc3339(value) if type(value) is int else value
