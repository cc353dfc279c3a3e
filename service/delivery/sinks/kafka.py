"""Kafka topics: a record for each event, by an idempotent producer.

The key is the user id, so the records of a user are in one partition. The producer keeps their order, and
stops rather than leave one out: then the batch begins anew with another producer. What is repeated has the
same `id`.

The client library resolves the names of brokers and connects by itself. Without TLS it gets checked addresses
to begin with. The brokers that the cluster names are checked before anything is sent to them, but the library
resolves their names again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.audiences.deliveries import Delivery
from engine.resources.servers import Server
from engine.resources.targets import ContentMode, Kafka, SaslMechanism
from service.delivery.guard import Guard
from service.delivery.sinks.brokers import faulty, peers_of, require, too_large
from service.delivery.sinks.sink import NEVER, Event, SinkError, Surroundings

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

QUEUE_KIBIBYTES_MAX = 64 * 1024
"""Records that wait in the library, of one output."""
LINGER_MS = 5
"""How long the library gathers records for a request."""
CHECK_INTERVAL_S = 0.1
"""Interval between looks for errors while records are on their way."""
NO_TOPIC_ATTEMPTS = 4
NO_TOPIC_WAIT_S = 0.25
"""Clusters that make topics by themselves need a moment for it."""

SASL_NAMES = {
    SaslMechanism.PLAIN: "PLAIN",
    SaslMechanism.SCRAM_SHA_256: "SCRAM-SHA-256",
    SaslMechanism.SCRAM_SHA_512: "SCRAM-SHA-512",
}
FINAL_ERRORS = {
    "_AUTHENTICATION": ("password", "the brokers refuse the user or the password"),
    "SASL_AUTHENTICATION_FAILED": ("password", "the brokers refuse the user or the password"),
    "UNSUPPORTED_SASL_MECHANISM": ("sasl_mechanism", "the brokers do not have it"),
    "TOPIC_AUTHORIZATION_FAILED": ("topic", "the user may not write to it"),
    "CLUSTER_AUTHORIZATION_FAILED": ("user", "the cluster does not let the user write idempotently"),
    "TOPIC_EXCEPTION": ("topic", "the cluster does not have such topics"),
    "UNKNOWN_TOPIC_OR_PART": ("topic", "the cluster does not have the topic"),
    "_UNKNOWN_TOPIC": ("topic", "the cluster does not have the topic"),
    "POLICY_VIOLATION": ("topic", "its policy refuses the records"),
    "INVALID_RECORD": ("topic", "the brokers refuse the records"),
}
"""Errors that no repetition mends, by their name: the field that causes them, and why."""
STRUCTURED: list[tuple[str, str | bytes | None]] = [("content-type", "application/cloudevents+json")]
"""Headers of a structured record. One whose name begins with `ce_` would make consumers take it for a binary
one.
"""
TOO_LARGE = ("MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE")

_LOGGER = logging.getLogger("milepost.kafka")
# Errors are reported where they stop a batch.
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


class KafkaSink:
    """Produces to one topic."""

    @classmethod
    def open(cls, delivery: Delivery, surroundings: Surroundings) -> KafkaSink:
        """The sink of a delivery to an output of kind `kafka`. Raises SinkError without the package."""
        target = delivery.output.target
        assert isinstance(target, Kafka)
        return cls(target, delivery.connection.name, surroundings.guard, surroundings.ca_file)

    def __init__(self, target: Kafka, connection: str, guard: Guard, ca_file: Path) -> None:
        require("confluent_kafka", "kafka")
        self._target = target
        self._client_id = f"milepost-{connection.rsplit('/', 1)[-1]}"
        self._guard = guard
        self._ca_file = ca_file
        self._producer: Producer | None = None
        self._failures: list[KafkaError] = []
        """Of records of the batch, and of the client since it was made."""

    @property
    def is_open(self) -> bool:
        """Whether there is a producer."""
        return self._producer is not None

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        """Produces the events, and waits until all brokers that keep them have them. Raises SinkError."""
        from confluent_kafka import KafkaException

        try:
            producer = self._connected(deadline)
            self._failures.clear()
            is_mark = False
            for event in events:
                # Marks of snapshots have a partition of their own: brokers have what comes before a mark when
                # it is sent, and the mark when anything after it is.
                if is_mark or not event.subject:
                    self._flush(producer, deadline)
                is_mark = not event.subject
                self._produce(producer, event, deadline)
            self._flush(producer, deadline)
        except SinkError:
            self.close()
            raise
        except KafkaException as error:
            # The end of the producer brings the reports of its records, which say more.
            self.close()
            raise self._final() or self._failure(error.args[0]) from error

    def tend(self) -> float:
        """Nothing is due without changes."""
        return NEVER

    def close(self) -> None:
        """Ends the producer, and what it has not sent."""
        from confluent_kafka import KafkaException

        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException):
                producer.purge(blocking=False)
                producer.flush(0)

    # --- connecting -----------------------------------------------------------------------------------------

    def _connected(self, deadline: float) -> Producer:
        from confluent_kafka import Producer

        if self._producer is None:
            self._failures.clear()
            self._producer = Producer(self._settings(), logger=_LOGGER)
            self._check_cluster(self._producer, deadline)
        return self._producer

    def _settings(self) -> dict[str, Any]:
        target = self._target
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(self._bootstrap_servers()),
            "client.id": self._client_id,
            "acks": "all",
            "enable.idempotence": True,
            # Without it a record that fails would be left out, and a later one of its user sent.
            "enable.gapless.guarantee": True,
            "delivery.report.only.error": True,
            # An attempt has a deadline of its own.
            "message.timeout.ms": 0,
            "linger.ms": LINGER_MS,
            "queue.buffering.max.kbytes": QUEUE_KIBIBYTES_MAX,
            # The partition of a key is the one that Java clients choose.
            "partitioner": "murmur2_random",
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 1_000,
            "error_cb": self._failures.append,
            # Errors are reported where they stop a batch.
            "log_level": 0,
            "security.protocol": ("SASL_" if target.user else "")
            + ("SSL" if target.use_tls else "PLAINTEXT"),
        }
        if target.user:
            settings["sasl.mechanism"] = SASL_NAMES[target.sasl_mechanism]
            settings["sasl.username"] = target.user
            settings["sasl.password"] = target.password
        if target.ca_certificates:
            settings["ssl.ca.pem"] = target.ca_certificates
        elif target.use_tls:
            settings["ssl.ca.location"] = str(self._ca_file)
        return settings

    def _bootstrap_servers(self) -> list[str]:
        """The servers to begin with: their checked addresses, or with TLS their names, which certificates
        have. Raises SinkError when none may be connected to.
        """
        found: list[str] = []
        failure: SinkError | None = None
        for server in self._target.server_list():
            try:
                peers = peers_of(self._guard, server.host, server.port)
            except SinkError as error:
                failure = failure or error
                continue
            checked = [str(Server("", str(peer.address), peer.port)) for peer in peers]
            found += [str(server)] if self._target.use_tls else checked
        if not found and failure is not None:
            raise failure
        return found

    def _check_cluster(self, producer: Producer, deadline: float) -> None:
        """Asks for the topic. Raises SinkError unless the cluster has it, on brokers that may be connected
        to, and KafkaException.
        """
        for attempt in range(1, NO_TOPIC_ATTEMPTS + 1):
            cluster = self._cluster(producer, deadline)
            for broker in cluster.brokers.values():
                peers_of(self._guard, broker.host, broker.port)
            error = cluster.topics[self._target.topic].error
            if error is None:
                return
            if attempt == NO_TOPIC_ATTEMPTS or error.name() != "UNKNOWN_TOPIC_OR_PART":
                raise self._failure(error)
            time.sleep(min(NO_TOPIC_WAIT_S, _remaining_s(deadline)))

    def _cluster(self, producer: Producer, deadline: float) -> Any:
        from confluent_kafka import KafkaException

        while True:
            try:
                wait_s = min(CHECK_INTERVAL_S, _remaining_s(deadline))
                return producer.list_topics(self._target.topic, timeout=max(0.001, wait_s))
            except KafkaException as error:
                producer.poll(0)
                self._check()
                if not _remaining_s(deadline):
                    raise self._late() from error

    # --- producing ------------------------------------------------------------------------------------------

    def _produce(self, producer: Producer, event: Event, deadline: float) -> None:
        binary = self._target.mode is ContentMode.BINARY
        while True:
            try:
                producer.produce(
                    self._target.topic,
                    event.data if binary else event.body,
                    event.subject,
                    on_delivery=self._on_delivery,
                    headers=_attributes(event) if binary else STRUCTURED,
                )
            except BufferError:
                # The queue is full.
                producer.poll(min(CHECK_INTERVAL_S, _remaining_s(deadline)))
                self._check()
                if not _remaining_s(deadline):
                    raise self._late() from None
            else:
                return

    def _flush(self, producer: Producer, deadline: float) -> None:
        """Waits until brokers have what was produced. Raises SinkError."""
        while producer.flush(min(CHECK_INTERVAL_S, _remaining_s(deadline))):
            self._check()
            if not _remaining_s(deadline):
                raise self._late()
        self._check(whole=True)

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failures.append(error)

    # --- errors ---------------------------------------------------------------------------------------------

    def _check(self, *, whole: bool = False) -> None:
        """Raises SinkError when something went wrong that the library does not mend by itself. `whole`: also
        when a record has failed.
        """
        if (final := self._final()) is not None:
            raise final
        for error in self._failures:
            if error.fatal() or (whole and not error.name().startswith("_")):
                raise self._failure(error)

    def _final(self) -> SinkError | None:
        """The first error that no repetition mends; None without one."""
        for error in self._failures:
            if error.name() in FINAL_ERRORS or error.name() in TOO_LARGE:
                return self._failure(error)
        return None

    def _late(self) -> SinkError:
        last = self._failures[-1].str() if self._failures else "no answer in time"
        return SinkError(f"{self._target.bootstrap_servers}: {last}")

    def _failure(self, error: KafkaError) -> SinkError:
        name = error.name()
        if name in FINAL_ERRORS:
            field, why = FINAL_ERRORS[name]
            return faulty("kafka", field, f"{why} ({error.str()})")
        if name in TOO_LARGE:
            return too_large("a change", "message.max.bytes of the topic or max.request.size of the client")
        return SinkError(f"{self._target.bootstrap_servers}: {error.str()}")


def _attributes(event: Event) -> list[tuple[str, str | bytes | None]]:
    """The attributes of an event as headers, by the Kafka protocol binding of CloudEvents."""
    return [
        ("content-type", "application/json"),
        ("ce_specversion", "1.0"),
        ("ce_id", event.id),
        ("ce_source", event.source),
        ("ce_type", event.type),
        ("ce_subject", event.subject),
        ("ce_time", event.time),
    ]


def _remaining_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
