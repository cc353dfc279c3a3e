"""Sinks: one file per kind of output, and one line per kind in `SINKS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from engine.audiences.deliveries import Delivery
from engine.resources.targets import File, Kafka, Nats, Redis, Target, Webhook
from service.delivery.sinks.file import FileSink
from service.delivery.sinks.kafka import KafkaSink
from service.delivery.sinks.nats import NatsSink
from service.delivery.sinks.redis import RedisSink
from service.delivery.sinks.sink import Sink
from service.delivery.surroundings import Surroundings

OpenSink: TypeAlias = Callable[[Delivery, Surroundings], Sink]
"""Makes the sink of a delivery. Raises SinkError."""


def _open_webhook(delivery: Delivery, surroundings: Surroundings) -> Sink:
    # Its libraries cost memory and a tenth of a second: services without webhooks, and readers, do without.
    from service.delivery.sinks.webhook import WebhookSink

    return WebhookSink.open(delivery, surroundings)


SINKS: Mapping[type[Target], OpenSink] = {
    File: FileSink.open,
    Kafka: KafkaSink.open,
    Nats: NatsSink.open,
    Redis: RedisSink.open,
    Webhook: _open_webhook,
}
"""Every kind of output that is built, in order of name."""
