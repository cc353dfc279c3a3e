"""CloudEvents 1.0, structured JSON, of membership changes.

`source` is the audience. `id` names the change within it and is the same for every attempt, so consumers
recognise duplicates by `source` and `id`, as the specification says. `subject` is the user id and `time` the
instant the change holds for.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.audiences.deliveries import Delivery
from engine.backends.base import Change
from engine.resources.records import ChangeKind, journey_of
from engine.values import Micros
from service.convert.times import rfc3339
from service.delivery.opted_in import ProfileOf, opted_in
from service.delivery.sinks.sink import Event

TYPE_PREFIX = "milepost.membership."

_json = msgspec.json.Encoder().encode


def kind_of(change: Change) -> ChangeKind:
    """The kind of a change."""
    return ChangeKind.ENTERED if change.entered else ChangeKind.EXITED


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
        event_id, type_ = _event_id(delivery, change, snapshot), TYPE_PREFIX + kind_of(change)
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
            opted_in(delivery.connection, change.user_id, profile_of),
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
    activation share one sequence, hence the connection, its activation and the user. An update of the
    connection changes no id. A change that a replay sends again is another event: receivers would drop it.
    """
    connection = delivery.connection
    if snapshot:
        return f"{change.sequence}.{connection.create_time:x}.{connection.activation}.{change.user_id}"
    replay = f".{connection.activation}" if change.sequence <= connection.replayed_through else ""
    return f"{change.sequence}.{change.as_of:x}{replay}"
