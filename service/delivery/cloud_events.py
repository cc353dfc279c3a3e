"""CloudEvents 1.0, structured JSON, of membership changes.

`source` is the audience. `id` names the change within it and is the same for every attempt, so consumers
recognise duplicates by `source` and `id`, as the specification says. `subject` is the user id and `time` the
instant the change holds for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from engine.audiences.deliveries import Delivery
from engine.backends.base import Change, Profile
from engine.resources.records import journey_of
from engine.values import Micros, Value
from service.convert.times import rfc3339
from service.delivery.sinks.sink import Event

ENTERED = "milepost.membership.entered"
EXITED = "milepost.membership.exited"

ProfileOf = Callable[[str], Profile | None]

_json = msgspec.json.Encoder().encode


def cloud_events(
    delivery: Delivery, changes: Sequence[Change], snapshot: bool, profile_of: ProfileOf
) -> list[Event]:
    """The events for changes, in order; `snapshot` for members at activation.

    What all have in common is rendered once: a batch has up to 10,000 changes, and senders share the
    processor with everything else.
    """
    source = f"/{delivery.audience.name}"
    before_type = b'","source":%b,"type":"' % _json(source)
    of_the_audience = msgspec.json.encode(_data_of(delivery))[:-1]
    before_user = b'","datacontenttype":"application/json","data":%b,"user_id":' % of_the_audience
    # A batch has few instants, and a refresh gives all its changes the same.
    times: dict[Micros, str] = {}
    events = []
    for change in changes:
        as_of = times.get(change.as_of)
        if as_of is None:
            as_of = times[change.as_of] = rfc3339(change.as_of)
        event_id, type_ = _event_id(delivery, change, snapshot), ENTERED if change.entered else EXITED
        time, user_id = as_of.encode(), _json(change.user_id)
        attributes = b'{"specversion":"1.0","id":%b%b%b","subject":%b,"time":"%b' % (
            _json(event_id)[:-1],
            before_type,
            type_.encode(),
            user_id,
            time,
        )
        body = b'%b%b%b,"entered":%b,"sequence":%d,"as_of":"%b"%b}}' % (
            attributes,
            before_user,
            user_id,
            b"true" if change.entered else b"false",
            change.sequence,
            time,
            _opted_in(delivery, change.user_id, profile_of),
        )
        data_at = len(attributes) + _DATA_AT
        events.append(Event(event_id, body, source, type_, change.user_id, as_of, data_at))
    return events


_DATA_AT = len(b'","datacontenttype":"application/json","data":')


def _data_of(delivery: Delivery) -> dict[str, str]:
    """The part of `data` that all changes of an audience have in common."""
    return {
        "audience": delivery.audience.name,
        "display_name": delivery.milestone.display_name,
        "external_name": delivery.audience.external_name,
        "milestone": delivery.milestone.name,
        "journey": journey_of(delivery.milestone.name),
    }


def _event_id(delivery: Delivery, change: Change, snapshot: bool) -> str:
    """Names the change. Sequences restart when a membership is recalculated, hence the instant; members at
    activation share one sequence, hence the activation and the user.
    """
    if snapshot:
        return f"{change.sequence}.{delivery.connection.update_time:x}.{change.user_id}"
    return f"{change.sequence}.{change.as_of:x}"


def _opted_in(delivery: Delivery, user_id: str, profile_of: ProfileOf) -> bytes:
    """Further members of `data`, with a leading comma; empty when the connection opts in to nothing."""
    connection = delivery.connection
    if not connection.identities and not connection.attributes:
        return b""
    profile = profile_of(user_id)
    opted_in = {
        "identities": {} if profile is None else _identities(profile, connection.identities),
        "attributes": {} if profile is None else _attributes(profile, connection.attributes),
    }
    return b"," + _json(opted_in)[1:-1]


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
