"""CloudEvents 1.0, structured JSON, of membership changes, and of where a snapshot begins and ends.

`source` is the audience. `id` names the event within it and is the same for every attempt, so consumers
recognise duplicates by `source` and `id`, as the specification says. `subject` is the user id and `time` the
instant the change holds for.
"""

from __future__ import annotations

import msgspec

from engine.audiences.deliveries import Delivery, kind_of
from engine.audiences.model import DeliveryBatch
from engine.backends.base import Change
from engine.resources.records import Connection, journey_of
from engine.values import Micros
from service.convert.times import rfc3339
from service.delivery.opted_in import ProfileOf, opted_in
from service.delivery.sinks.sink import Event

TYPE_PREFIX = "milepost.membership."
SNAPSHOT_BEGIN = "milepost.snapshot.begin"
SNAPSHOT_END = "milepost.snapshot.end"

_json = msgspec.json.Encoder().encode


def cloud_events(delivery: Delivery, batch: DeliveryBatch, profile_of: ProfileOf) -> list[Event]:
    """The events of a batch, in order: its changes, and the marks where a snapshot begins and ends.

    What all have in common is rendered once: a batch has up to 10,000 changes, and senders share the
    processor with everything else.
    """
    of_the_audience = msgspec.json.encode(_data_of(delivery, batch))[:-1]
    events = _changes(delivery, batch, of_the_audience, profile_of)
    if batch.begins:
        begins = _mark(delivery, batch, SNAPSHOT_BEGIN, delivery.connection.delivered, of_the_audience)
        events.insert(0, begins)
    if batch.ends:
        events.append(_mark(delivery, batch, SNAPSHOT_END, batch.cursor.sequence, of_the_audience))
    return events


def _changes(
    delivery: Delivery, batch: DeliveryBatch, of_the_audience: bytes, profile_of: ProfileOf
) -> list[Event]:
    source = _source_of(delivery)
    before_type = b'","source":%b,"type":"' % _json(source)
    before_user = b'","datacontenttype":"application/json","data":%b,"user_id":' % of_the_audience
    # A batch has few instants, and a refresh gives all its changes the same.
    times: dict[Micros, str] = {}
    events = []
    for change in batch.changes:
        as_of = times.get(change.as_of)
        if as_of is None:
            as_of = times[change.as_of] = rfc3339(change.as_of)
        event_id, type_ = _event_id(delivery, batch, change), TYPE_PREFIX + kind_of(change)
        time, user_id = as_of.encode(), _json(change.user_id)
        attributes = b'{"specversion":"1.0","id":%b%b%b","subject":%b,"time":"%b' % (
            _json(event_id)[:-1],
            before_type,
            type_.encode(),
            user_id,
            time,
        )
        body = b'%b%b%b,"entered":%b,"sequence":%d,"last_of_instant":%b,"as_of":"%b"%b}}' % (
            attributes,
            before_user,
            user_id,
            _BOOLEANS[change.entered],
            change.sequence,
            _BOOLEANS[change.last_of_instant],
            time,
            opted_in(delivery.connection, change.user_id, profile_of),
        )
        data_at = len(attributes) + _DATA_AT
        events.append(Event(event_id, body, source, type_, change.user_id, as_of, data_at))
    return events


_DATA_AT = len(b'","datacontenttype":"application/json","data":')
_BOOLEANS = (b"false", b"true")


def _mark(
    delivery: Delivery, batch: DeliveryBatch, type_: str, sequence: int, of_the_audience: bytes
) -> Event:
    """Where a snapshot begins or ends. It has no subject."""
    source, as_of = _source_of(delivery), rfc3339(batch.as_of)
    event_id = (
        f"{batch.cursor.epoch}.{sequence}.{_snapshot_of(delivery.connection)}.{type_.rpartition('.')[2]}"
    )
    attributes = b'{"specversion":"1.0","id":%b,"source":%b,"type":"%b","time":"%b' % (
        _json(event_id),
        _json(source),
        type_.encode(),
        as_of.encode(),
    )
    data = b'%b,"sequence":%d,"as_of":"%b"}' % (of_the_audience, sequence, as_of.encode())
    body = b'%b","datacontenttype":"application/json","data":%b}' % (attributes, data)
    return Event(event_id, body, source, type_, "", as_of, len(attributes) + _DATA_AT)


def _source_of(delivery: Delivery) -> str:
    return f"/{delivery.audience.name}"


def _data_of(delivery: Delivery, batch: DeliveryBatch) -> dict[str, str]:
    """The part of `data` that all events of a batch have in common."""
    return {
        "audience": delivery.audience.name,
        "display_name": delivery.milestone.display_name,
        "external_name": delivery.audience.external_name,
        "milestone": delivery.milestone.name,
        "journey": journey_of(delivery.milestone.name),
        "epoch": batch.cursor.epoch,
    }


def _event_id(delivery: Delivery, batch: DeliveryBatch, change: Change) -> str:
    """Names the change: sequences are those of an epoch. Members of a snapshot share one sequence, hence the
    snapshot and the user. A change that a replay sends again is another event: receivers would drop it.
    """
    epoch, connection = batch.cursor.epoch, delivery.connection
    if batch.snapshot is not None:
        return f"{epoch}.{change.sequence}.{_snapshot_of(connection)}.{change.user_id}"
    if connection.exiting and change.sequence > connection.left_at:
        # Another connection may keep the audience calculated, where the sequence means another change.
        return f"{epoch}.{change.sequence}.{_snapshot_of(connection)}"
    replay = f".{connection.activation}" if change.sequence <= connection.replayed_through else ""
    return f"{epoch}.{change.sequence}{replay}"


def _snapshot_of(connection: Connection) -> str:
    """Tells the snapshots of an epoch apart: each connection has one at each activation. An update of the
    connection changes no id.
    """
    return f"{connection.create_time:x}.{connection.activation}"
