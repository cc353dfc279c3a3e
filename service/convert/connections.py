"""Outputs and connections, both ways."""

from __future__ import annotations

from engine.errors import InvalidInput, Unsupported
from engine.resources.records import (
    BATCH_AGE_DEFAULT_MICROS,
    BATCH_CHANGES_DEFAULT,
    Connection,
    ConnectionState,
    File,
    Kafka,
    Nats,
    Output,
    Redis,
    Webhook,
    etag_of,
)
from milepost.v1 import connection_pb2
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message, timestamp
from service.not_built import OUTPUT_KINDS_NOT_BUILT

NO_KIND = "must have exactly one of webhook, nats, redis, kafka, file"

_STATE_MESSAGES = {
    ConnectionState.INACTIVE: connection_pb2.CONNECTION_STATE_INACTIVE,
    ConnectionState.ACTIVE: connection_pb2.CONNECTION_STATE_ACTIVE,
    ConnectionState.FAULTED: connection_pb2.CONNECTION_STATE_FAULTED,
}


def output_of_message(message: connection_pb2.Output, *, needs_kind: bool = True) -> Output:
    """The record of an output. Raises InvalidInput without a kind, Unsupported for a kind that is not built.

    An update that leaves the kind as it is needs none.
    """
    kind = message.WhichOneof("kind")
    if kind in OUTPUT_KINDS_NOT_BUILT:
        raise Unsupported(f"outputs of kind {kind} are not built yet", metadata={"kind": kind})
    if kind is None and needs_kind:
        raise InvalidInput.one("output", NO_KIND)
    return Output(name=message.name, display_name=message.display_name, target=File(message.file.path))


def output_message(output: Output) -> connection_pb2.Output:
    """The message of an output, without a webhook's secret."""
    message = connection_pb2.Output(
        name=output.name,
        display_name=output.display_name,
        create_time=timestamp(output.create_time),
        update_time=timestamp(output.update_time),
        etag=etag_of(output),
    )
    match output.target:
        case Webhook(url=url):
            message.webhook.url = url
        case Nats(servers=servers, subject=subject):
            message.nats.servers = servers
            message.nats.subject = subject
        case Redis(url=url, stream=stream, max_length=max_length):
            message.redis.url = url
            message.redis.stream = stream
            message.redis.max_length = max_length
        case Kafka(bootstrap_servers=servers, topic=topic):
            message.kafka.bootstrap_servers = servers
            message.kafka.topic = topic
        case File(path=path):
            message.file.path = path
    return message


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
        batch_changes=batching.max_changes or BATCH_CHANGES_DEFAULT,
        batch_age=age,
    )


def connection_message(connection: Connection) -> connection_pb2.Connection:
    """The message for a connection."""
    return connection_pb2.Connection(
        name=connection.name,
        audience=connection.audience,
        output=connection.output,
        state=_STATE_MESSAGES[connection.state],
        identities=connection.identities,
        attributes=connection.attributes,
        batching=connection_pb2.Batching(
            max_changes=connection.batch_changes, max_age=duration_message(connection.batch_age)
        ),
        delivered_sequence=connection.delivered,
        fault=connection.fault,
        create_time=timestamp(connection.create_time),
        update_time=timestamp(connection.update_time),
        etag=etag_of(connection),
    )
