"""A Kafka cluster for tests: the one that librdkafka has for its own, in this process, on real ports.

The Python client offers no more than its number of brokers. What the tests need of it, brokers that go and
come back and errors on demand, has functions in C.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, Self

import confluent_kafka

PRODUCER = 0
PRODUCE_REQUEST = 0
"""The key of the request in Kafka's protocol."""
ERROR_BYTES = 512


@functools.cache
def _library() -> Any:
    """The C library that the client brings."""
    assert confluent_kafka.__file__ is not None
    [path] = (Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs").glob("librdkafka*.so*")
    library = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(library, name).restype = ctypes.c_void_p
    library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return library


class KafkaCluster:
    """A cluster with that many brokers. Records are in memory, the last 5 MiB of each partition."""

    def __init__(self, brokers: int = 3) -> None:
        self._library = _library()
        error = ctypes.create_string_buffer(ERROR_BYTES)
        # The cluster needs a client to live in; the client itself connects to nothing.
        conf = ctypes.c_void_p(self._library.rd_kafka_conf_new())
        # It would say that it has no servers.
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", error, ctypes.c_size_t(ERROR_BYTES))
        self._client = ctypes.c_void_p(self._library.rd_kafka_new(PRODUCER, conf, error, ERROR_BYTES))
        assert self._client.value, error.value
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, brokers))
        assert self._cluster.value
        self._brokers = range(1, brokers + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    @property
    def bootstrap_servers(self) -> str:
        """Addresses of all brokers."""
        return str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topic(self, topic: str, partitions: int = 4) -> None:
        """Makes a topic."""
        replicas = min(3, len(self._brokers))
        self._done(
            self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, replicas)
        )

    def set_topic_error(self, topic: str, error: int) -> None:
        """Answers questions about a topic with an error; 0: no longer."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def fail_produce(self, *errors: int) -> None:
        """Answers the next requests to produce with these errors, one each."""
        codes = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(PRODUCE_REQUEST), ctypes.c_size_t(len(errors)), codes
        )

    def stop(self) -> None:
        """Brokers take no connections and end those they have."""
        for broker in self._brokers:
            self._done(self._library.rd_kafka_mock_broker_set_down(self._cluster, broker))

    def start(self) -> None:
        """Brokers take connections again, with the records they had."""
        for broker in self._brokers:
            self._done(self._library.rd_kafka_mock_broker_set_up(self._cluster, broker))

    def announce(self, host: str, port: int) -> None:
        """Says that brokers are at another address."""
        for broker in self._brokers:
            self._library.rd_kafka_mock_broker_set_host_port(self._cluster, broker, host.encode(), port)

    def delay(self, milliseconds: int) -> None:
        """Lets brokers take that long for each answer."""
        for broker in self._brokers:
            self._done(self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds))

    def _done(self, code: int) -> None:
        assert code == 0, f"error {code} of librdkafka"
