"""Receivers of the delivery campaign: one for each kind of output, on a real server.

To add a kind: a context manager that gives a `Receiver` and hands each event that arrives to the ledger, in
order of arrival, and its line in `RECEIVERS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import nats
import redis
from confluent_kafka import Consumer, TopicPartition

from milepost.outputs import FileOutput, KafkaOutput, NatsOutput, OutputKind, RedisOutput, WebhookOutput
from milepost.values import to_duration
from tests.brokers import HOST, NatsServer, RedisServer
from tests.faults.delivery_ledger import DeliveryLedger
from tests.faults.file_reader import FileReader
from tests.kafka_mock import KafkaCluster
from tests.service.delivery.endpoint import DROP, HALF, STALL, Answer, Endpoint, Received, endpoint

SECRET = "whsec_" + "A" * 32
FAILURES_MAX = 100
"""Requests that an endpoint fails in a campaign: each costs the connection a wait."""
FAILURE_PERCENT = 2
AFTER_TAKING = (DROP,) * 5 + (HALF,) * 5 + (STALL,)
"""Ways to fail once the events are taken. A stall lasts for as long as an attempt may."""
ATTEMPT_S_MAX = 5
LOOPBACK = ("--output-networks", "127.0.0.0/8")
READ_EVENTS_MAX = 500
READ_WAIT_MS = 100


@dataclass(frozen=True)
class Receiver:
    """Where a connection delivers to, and the flags that the service needs for it."""

    output: OutputKind
    flags: tuple[str, ...] = ()


OpenReceiver = Callable[[Path, DeliveryLedger, random.Random], AbstractContextManager[Receiver]]
"""Opens a receiver that may keep files in a directory. `Random` chooses its failures."""


class _Failing(Endpoint):
    """Verifies signatures, hands events to the ledger, and fails now and then: before it has taken the
    events, after it, half-way through its answer, or by not answering at all.
    """

    def __init__(self, ledger: DeliveryLedger, source: random.Random) -> None:
        super().__init__()
        self._ledger = ledger
        self._source = source
        self._failures = 0
        self._taking = threading.Lock()

    def take(self, received: Received) -> Answer:
        received.verify(SECRET)
        with self._taking:
            if received.connection < self.connections:
                # Its sender has given it up, or was killed: it would arrive after what was sent since.
                return Answer(way=DROP)
            answer = self._answer()
            if answer.status < 300:
                for event in received.events:
                    self._ledger.take(event)
        if answer.way == STALL:
            self.stall()
        return answer

    def _answer(self) -> Answer:
        fails = self._failures < FAILURES_MAX and self._source.randrange(100) < FAILURE_PERCENT
        if not fails:
            return Answer()
        self._failures += 1
        if self._source.random() < 0.5:
            waits = ("0", format_datetime(datetime.now(UTC), usegmt=True))
            return Answer(self._source.choice((408, 429, 503)), {"Retry-After": self._source.choice(waits)})
        return Answer(200, body=b"taken", way=self._source.choice(AFTER_TAKING))


@contextlib.contextmanager
def _webhook(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    with endpoint(made=_Failing(ledger, source)) as receiver:
        flags = (*LOOPBACK, "--delivery-attempt-s-max", str(ATTEMPT_S_MAX))
        yield Receiver(WebhookOutput(url=receiver.url, secret=SECRET), flags)


@contextlib.contextmanager
def _reading(read: Callable[[], Iterable[Mapping[str, Any]]], ledger: DeliveryLedger) -> Iterator[None]:
    """Hands what `read` gives to the ledger, again and again in a thread. An error becomes a fault."""
    ended = threading.Event()

    def take_all() -> None:
        try:
            while not ended.is_set():
                for event in read():
                    ledger.take(event)
        except Exception as error:
            ledger.fail(f"the reader stopped: {error!r}")

    thread = threading.Thread(target=take_all, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _file(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    output_dir = directory / "outputs"
    written = output_dir / "deliveries" / "exports" / "sending.ndjson"
    kind = FileOutput(path="exports", max_bytes=65_536, max_age=to_duration(timedelta(seconds=1)), gzip=True)
    with _reading(FileReader(written).read, ledger):
        yield Receiver(kind, ("--output-dir", str(output_dir)))


@contextlib.contextmanager
def _redis(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    with RedisServer(directory / "redis") as server, redis.Redis(HOST, server.port) as client:
        after = [b"0"]

        def read() -> Iterator[Mapping[str, Any]]:
            found: Any = client.xread({"changes": after[0]}, count=READ_EVENTS_MAX, block=READ_WAIT_MS)
            for number, fields in found[0][1] if found else ():
                after[0] = number
                yield json.loads(fields[b"event"])

        with _reading(read, ledger):
            yield Receiver(RedisOutput(url=server.url, stream="changes"), LOOPBACK)


@contextlib.contextmanager
def _nats(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    with NatsServer(directory / "nats") as server, asyncio.Runner() as runner:
        client = runner.run(nats.connect(server.url))
        stream = client.jetstream()
        runner.run(stream.add_stream(name="CHANGES", subjects=["changes"]))
        consumer = runner.run(stream.pull_subscribe("changes", durable="ledger"))

        async def fetch() -> list[Mapping[str, Any]]:
            try:
                messages = await consumer.fetch(READ_EVENTS_MAX, timeout=READ_WAIT_MS / 1_000)
            except TimeoutError:
                return []
            for message in messages:
                await message.ack()
            return [json.loads(message.data) for message in messages]

        with _reading(lambda: runner.run(fetch()), ledger):
            yield Receiver(NatsOutput(servers=server.url, subject="changes"), LOOPBACK)
        runner.run(client.close())


@contextlib.contextmanager
def _kafka(directory: Path, ledger: DeliveryLedger, source: random.Random) -> Iterator[Receiver]:
    with KafkaCluster() as cluster:
        # One partition, so that the ledger sees the order of all changes.
        cluster.create_topic("changes", 1)
        servers = cluster.bootstrap_servers
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "ledger"})
        consumer.assign([TopicPartition("changes", 0, 0)])

        def read() -> Iterator[Mapping[str, Any]]:
            for record in consumer.consume(READ_EVENTS_MAX, READ_WAIT_MS / 1_000):
                if record.error() is None:
                    yield json.loads(record.value() or b"")

        with _reading(read, ledger):
            yield Receiver(KafkaOutput(bootstrap_servers=servers, topic="changes"), LOOPBACK)
        consumer.close()


RECEIVERS: dict[str, OpenReceiver] = {
    "file": _file,
    "kafka": _kafka,
    "nats": _nats,
    "redis": _redis,
    "webhook": _webhook,
}
"""By the name of the kind."""

UNREAD_CHANGES_MAX = {"kafka": 4_000}
"""By the name of the kind, how many changes may wait to be read. The mock cluster keeps 5 MiB of a partition
and lets go of the rest, read or not.
"""
