"""A Kafka topic has every change, those of a user in order, whatever happens to the brokers in between."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from engine.resources.targets import ContentMode, Kafka, SaslMechanism
from service.delivery.guard import Guard, networks_of
from service.delivery.sinks.kafka import KafkaSink
from service.delivery.sinks.sink import Event, SinkError
from tests.brokers import HOST, free_port
from tests.kafka_mock import KafkaCluster

LOOPBACK = Guard(networks_of("127.0.0.0/8"))
ATTEMPT_S = 60.0
CA_FILE = Path(certifi.where())
TOPIC = "audiences.keen"
PARTITIONS = 4


def event(number: int, user: str = "") -> Event:
    body = f'{{"specversion":"1.0","id":"e{number}","source":"/s","type":"t","text":"é","data":'.encode()
    data = f'{{"user_id":"{user}"}}'.encode()
    return Event(
        id=f"e{number}",
        body=body + data + b"}",
        source="/accounts/a/audiences/x",
        type="milepost.membership.entered",
        subject=user or f"u{number}",
        time="2026-11-28T12:00:00Z",
        data_at=len(body),
    )


def sink(servers: str, guard: Guard = LOOPBACK, **fields: Any) -> KafkaSink:
    target = Kafka(bootstrap_servers=servers, topic=fields.pop("topic", TOPIC), **fields)
    assert list(target.faults()) == []
    return KafkaSink(target, "accounts/a/connections/c", guard, CA_FILE)


def deliver(output: KafkaSink, *numbers: int, within_s: float = ATTEMPT_S) -> None:
    output.deliver([event(number) for number in numbers], time.monotonic() + within_s)


def refusal(output: KafkaSink, *numbers: int, within_s: float = ATTEMPT_S) -> SinkError:
    with pytest.raises(SinkError) as failure:
        deliver(output, *(numbers or (1,)), within_s=within_s)
    assert not output.is_open
    return failure.value


def records(cluster: KafkaCluster, count: int) -> list[Message]:
    """Records of the topic, in order by partition, once there are `count`, and no more."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "g"})
    try:
        partitions = [TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        deadline, found = time.monotonic() + ATTEMPT_S, list[Message]()
        while len(found) < count and time.monotonic() < deadline:
            found += [each for each in consumer.consume(count, 0.1) if each.error() is None]
        highs = [consumer.get_watermark_offsets(each, timeout=ATTEMPT_S)[1] for each in partitions]
        assert (len(found), sum(highs)) == (count, count)
        return sorted(found, key=lambda each: (each.partition(), each.offset()))
    finally:
        consumer.close()


def ids(cluster: KafkaCluster, count: int) -> list[str]:
    return [json.loads(each.value() or b"")["id"] for each in records(cluster, count)]


def headers_of(record: Message) -> dict[str, bytes]:
    return {each[0]: each[1] for each in record.headers() or () if isinstance(each[1], bytes)}


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    with KafkaCluster() as made:
        made.create_topic(TOPIC, PARTITIONS)
        yield made


def test_records_of_a_user_are_in_one_partition_in_order(cluster: KafkaCluster) -> None:
    output = sink(cluster.bootstrap_servers)
    assert not output.is_open
    events = [event(number, f"u{number % 20}") for number in range(500)]
    output.deliver(events[:300], time.monotonic() + ATTEMPT_S)
    assert output.is_open
    output.close()
    output.deliver(events[300:], time.monotonic() + ATTEMPT_S)
    output.close()
    found = records(cluster, 500)
    assert len({each.partition() for each in found}) > 1
    for user in range(20):
        own = [each for each in found if each.key() == f"u{user}".encode()]
        assert len({each.partition() for each in own}) == 1
        assert [json.loads(each.value() or b"")["id"] for each in own] == [
            f"e{number}" for number in range(user, 500, 20)
        ]


def test_brokers_have_what_comes_before_a_mark_and_the_mark_before_what_follows(
    cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark has a partition of its own: a consumer of several can wait for what came before it."""
    output = sink(cluster.bootstrap_servers)
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "g"})
    partitions = [TopicPartition(TOPIC, number, 0) for number in range(PARTITIONS)]
    stored: list[int] = []
    produce = output._produce

    def produced(producer: Any, each: Event, deadline: float) -> None:
        stored.append(sum(consumer.get_watermark_offsets(one, timeout=ATTEMPT_S)[1] for one in partitions))
        produce(producer, each, deadline)

    monkeypatch.setattr(output, "_produce", produced)
    marks = (2, 5, 7)
    events = [event(number) for number in range(8)]
    events = [
        msgspec.structs.replace(each, subject="") if n in marks else each for n, each in enumerate(events)
    ]
    output.deliver(events, time.monotonic() + ATTEMPT_S)
    output.close()
    consumer.close()
    assert [stored[number] for number in (2, 3, 5, 6)] == [2, 3, 5, 6]
    found = [each.partition() for each in records(cluster, 8) if not each.key()]
    assert len(found) == len(marks)
    assert len(set(found)) == 1


def test_records_are_read_as_they_were_meant(cluster: KafkaCluster) -> None:
    structured = sink(cluster.bootstrap_servers)
    structured.deliver([event(1, "ann")], time.monotonic() + ATTEMPT_S)
    binary = sink(cluster.bootstrap_servers, mode=ContentMode.BINARY)
    binary.deliver([event(2, "ann é\n")], time.monotonic() + ATTEMPT_S)
    structured.close()
    binary.close()
    whole, parts = sorted(records(cluster, 2), key=lambda each: each.key() or b"")
    assert (whole.value(), headers_of(whole)) == (
        event(1, "ann").body,
        {"content-type": b"application/cloudevents+json"},
    )
    assert parts.value() == event(2, "ann é\n").data
    headers = headers_of(parts)
    parts_event = from_kafka_event(KafkaMessage(headers, parts.key(), b'{"user_id": "ann"}'))
    assert (parts_event.get_id(), parts_event.get_subject()) == ("e2", "ann é\n")
    assert parts_event.get_type() == "milepost.membership.entered"
    message = KafkaMessage(headers_of(whole), whole.key(), whole.value() or b"")
    assert from_kafka_event(message).get_id() == "e1"


def test_brokers_that_come_back_get_what_is_missing(cluster: KafkaCluster) -> None:
    output = sink(cluster.bootstrap_servers)
    deliver(output, 1)
    cluster.stop()
    failure = refusal(output, 2, within_s=0.5)
    assert not failure.final
    assert cluster.bootstrap_servers in str(failure)
    assert not refusal(output, 2, within_s=0.5).final
    cluster.start()
    deliver(output, 2)
    output.close()
    assert sorted(ids(cluster, 2)) == ["e1", "e2"]


def test_errors_of_brokers_that_pass_repeat_nothing(cluster: KafkaCluster) -> None:
    output = sink(cluster.bootstrap_servers)
    deliver(output, 1)
    cluster.fail_produce(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NOT_ENOUGH_REPLICAS)
    deliver(output, 2, 3, 4)
    output.close()
    assert sorted(ids(cluster, 4)) == ["e1", "e2", "e3", "e4"]


def test_brokers_that_do_not_answer_take_no_longer_than_the_attempt(cluster: KafkaCluster) -> None:
    output = sink(cluster.bootstrap_servers)
    deliver(output, 1)
    cluster.delay(60_000)
    began = time.monotonic()
    failure = refusal(output, 2, within_s=0.3)
    assert time.monotonic() - began >= 0.3
    assert (failure.final, "no answer in time" in str(failure)) == (False, True)


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, "topic: the cluster does not have the topic"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "topic: the user may not write to it"),
        (KafkaError.TOPIC_EXCEPTION, "topic: the cluster does not have such topics"),
    ],
)
def test_a_topic_that_cannot_be_written_to_is_final(cluster: KafkaCluster, error: int, field: str) -> None:
    cluster.set_topic_error(TOPIC, error)
    failure = refusal(sink(cluster.bootstrap_servers))
    assert failure.final
    assert str(failure).startswith(f"output.kafka.{field} (")
    assert str(failure).endswith("change it with UpdateOutput, then resume the connection")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, "a change is larger than the message.max.bytes"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "output.kafka.topic: the user may not write to it"),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, "output.kafka.user: the cluster does not let"),
    ],
)
def test_records_that_are_refused_are_final(cluster: KafkaCluster, error: int, said: str) -> None:
    output = sink(cluster.bootstrap_servers)
    deliver(output, 1)
    cluster.fail_produce(*(error,) * 20)
    failure = refusal(output, 2)
    assert (failure.final, str(failure)[: len(said)]) == (True, said)


def test_a_change_over_the_limit_of_the_client_is_final(cluster: KafkaCluster) -> None:
    output = sink(cluster.bootstrap_servers)
    with pytest.raises(SinkError, match="a change is larger than") as failure:
        output.deliver([Event("e1", b"x" * 2_000_000, subject="ann")], time.monotonic() + ATTEMPT_S)
    assert failure.value.final
    assert not output.is_open


def test_addresses_are_checked_also_those_that_the_cluster_names(cluster: KafkaCluster) -> None:
    failure = refusal(sink(cluster.bootstrap_servers, Guard()))
    assert failure.final
    assert str(failure) == f"outputs may not connect to {HOST}: {HOST} is a loopback address"
    with free_port() as port:
        cluster.announce("169.254.169.254", port)
        failure = refusal(sink(cluster.bootstrap_servers))
    assert failure.final
    assert str(failure) == (
        "outputs may not connect to 169.254.169.254: 169.254.169.254 is a link-local address"
    )
    with free_port() as port:
        failure = refusal(sink(f"{HOST}:{port}"), within_s=0.5)
    assert not failure.final


def test_a_user_needs_brokers_that_authenticate(cluster: KafkaCluster) -> None:
    """The cluster has no users, so the handshake fails."""
    output = sink(
        cluster.bootstrap_servers, user="ann", password="secret", sasl_mechanism=SaslMechanism.PLAIN
    )
    failure = refusal(output, within_s=5.0)
    assert "secret" not in str(failure)


def test_tls_needs_a_certificate_that_is_trusted() -> None:
    """What a server without a certificate that is trusted gets is the beginning of a handshake."""
    with socket.create_server((HOST, 0)) as listener:
        seen = list[bytes]()

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(3))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        output = sink(f"localhost:{listener.getsockname()[1]}", use_tls=True)
        deadline = time.monotonic() + ATTEMPT_S
        while not seen and time.monotonic() < deadline:
            assert not refusal(output, within_s=0.5).final
        thread.join(ATTEMPT_S)
    # A handshake record of TLS, and its version.
    assert seen[0][:2] == b"\x16\x03"
