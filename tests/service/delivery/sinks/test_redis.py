"""A Redis stream has every change in order, whatever happens to the server in between."""

from __future__ import annotations

import contextlib
import itertools
import json
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import certifi
import pytest
import redis
import trustme

from engine.resources.targets import Redis
from service.delivery.guard import Guard, networks_of
from service.delivery.sinks.redis import TRANSACTION_EVENTS_MAX, RedisSink
from service.delivery.sinks.sink import Event, SinkError
from tests.brokers import HOST, RedisServer, free_port, relay
from tests.harness import eventually

LOOPBACK = Guard(networks_of("127.0.0.0/8"))
ATTEMPT_S = 60.0
RETRY_S = 0.05
CA_FILE = Path(certifi.where())


def event(number: int) -> Event:
    return Event(id=f"e{number}", body=json.dumps({"id": f"e{number}", "text": "é"}).encode())


def soon() -> float:
    return time.monotonic() + ATTEMPT_S


def sink(url: str, guard: Guard = LOOPBACK, **fields: Any) -> RedisSink:
    return RedisSink(Redis(url=url, stream="changes", **fields), guard, CA_FILE)


def deliver(output: RedisSink, *numbers: int) -> None:
    output.deliver([event(number) for number in numbers], soon())


def refusal(output: RedisSink, *numbers: int) -> SinkError:
    with pytest.raises(SinkError) as failure:
        deliver(output, *(numbers or (1,)))
    assert not output.is_open
    return failure.value


def entries(server: RedisServer, **login: Any) -> list[dict[str, str]]:
    with redis.Redis(HOST, server.port, decode_responses=True, **login) as client:
        return [fields for _, fields in client.xrange("changes")]


def ids(server: RedisServer) -> list[str]:
    return [fields["id"] for fields in entries(server)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """A server without data."""
    with redis.Redis(HOST, shared.port) as client:
        client.flushall()
    return shared


def test_entries_are_in_order_and_read_as_they_were_sent(server: RedisServer) -> None:
    output = sink(server.url)
    assert not output.is_open
    deliver(output, 1, 2)
    deliver(output, 3)
    assert output.is_open
    output.close()
    assert not output.is_open
    deliver(output, 4)
    output.close()
    assert [(each["id"], json.loads(each["event"])) for each in entries(server)] == [
        (f"e{number}", {"id": f"e{number}", "text": "é"}) for number in (1, 2, 3, 4)
    ]


def test_a_large_batch_is_several_transactions(server: RedisServer) -> None:
    output = sink(server.url)
    numbers = range(2 * TRANSACTION_EVENTS_MAX + 1)
    deliver(output, *numbers)
    output.close()
    assert ids(server) == [f"e{number}" for number in numbers]


def test_the_length_of_the_stream_is_bounded(server: RedisServer) -> None:
    output = sink(server.url, max_length=100)
    deliver(output, *range(1_000))
    output.close()
    kept = ids(server)
    # Whole nodes of 100 entries are trimmed.
    assert 100 <= len(kept) <= 200
    assert kept[-1] == "e999"


def test_another_database(server: RedisServer) -> None:
    output = sink(server.url.replace("/0", "/3"))
    deliver(output, 1)
    output.close()
    assert (ids(server), len(entries(server, db=3))) == ([], 1)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_comes_back_gets_what_is_missing(tmp_path: Path, end: str) -> None:
    with RedisServer(tmp_path) as server:
        output = sink(server.url)
        deliver(output, 1)
        getattr(server, end)()
        failure = refusal(output, 2)
        assert not failure.final
        assert f"{HOST}:{server.port}" in str(failure)
        assert not refusal(output, 2).final
        server.start()
        deliver(output, 2)
        output.close()
        assert ids(server) == ["e1", "e2"]


def test_a_server_that_is_killed_half_way_loses_nothing(tmp_path: Path) -> None:
    """However far the batch was: what comes again is the beginning of the batch, in order."""
    numbers = range(10 * TRANSACTION_EVENTS_MAX)
    with RedisServer(tmp_path) as server, ThreadPoolExecutor(1) as sender:
        output = sink(server.url)

        def deliver_all() -> int:
            for failures in itertools.count():
                with contextlib.suppress(SinkError):
                    deliver(output, *numbers)
                    return failures
                time.sleep(RETRY_S)
            raise AssertionError

        sending = sender.submit(deliver_all)
        eventually(lambda: output.is_open)
        server.kill()
        server.start()
        failures = sending.result(ATTEMPT_S)
        output.close()
        found = ids(server)
    whole = [f"e{number}" for number in numbers]
    assert found[-len(whole) :] == whole
    before = found[: -len(whole)]
    assert len(before) <= failures * len(whole)
    assert list(dict.fromkeys(before)) == whole[: len(set(before))]


def test_a_connection_that_ends_while_nothing_is_sent_is_no_failure(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        output = sink(server.url)
        deliver(output, 1)
        server.stop()
        server.start()
        deliver(output, 2)
        output.close()
        assert ids(server) == ["e1", "e2"]


def test_an_answer_that_is_lost_repeats_whole_transactions(server: RedisServer) -> None:
    """The server has what it took, and consumers recognise it by id."""
    with relay(server.port) as between:
        output = sink(f"redis://{HOST}:{between.port}")
        deliver(output, 1)
        between.drop_answers()
        assert not refusal(output, 2, 3).final
        between.pass_answers()
        deliver(output, 2, 3)
        output.close()
    assert ids(server) in (["e1", "e2", "e3"], ["e1", "e2", "e3", "e2", "e3"])


def test_a_server_that_does_not_answer_takes_no_longer_than_the_attempt(server: RedisServer) -> None:
    with relay(server.port) as between:
        between.drop_answers(close=False)
        output = sink(f"redis://{HOST}:{between.port}")
        began = time.monotonic()
        with pytest.raises(SinkError) as failure:
            output.deliver([event(1)], time.monotonic() + 0.2)
        assert time.monotonic() - began >= 0.2
        assert not failure.value.final
        output.close()


def test_refusals_that_no_repetition_mends_name_the_field(tmp_path: Path, server: RedisServer) -> None:
    way_on = "; change it with UpdateOutput, then resume the connection"
    with redis.Redis(HOST, server.port) as client:
        client.set("changes", "text")
        client.acl_setuser("ann", enabled=True, passwords=["+secret"], keys=["other"], commands=["+@all"])
    refused = [
        ("stream", sink(server.url)),
        ("url", sink(server.url.replace("/0", "/99"))),
        ("url", sink(f"redis://ann:wrong@{HOST}:{server.port}")),
        ("url", sink(f"redis://ann:sec%72et@{HOST}:{server.port}")),
    ]
    for field, output in refused:
        failure = refusal(output)
        assert failure.final, failure
        assert str(failure).startswith(f"output.redis.{field}: ")
        assert str(failure).endswith(way_on)
        assert "secret" not in str(failure)
    with RedisServer(tmp_path, "--requirepass", "secret") as closed:
        failure = refusal(sink(closed.url))
        assert (failure.final, "asks for a password" in str(failure)) == (True, True)
        output = sink(f"redis://:secret@{HOST}:{closed.port}/0")
        deliver(output, 1)
        output.close()
        assert len(entries(closed, password="secret")) == 1


def test_a_full_server_is_tried_again_and_gets_no_part_of_the_batch(server: RedisServer) -> None:
    with redis.Redis(HOST, server.port) as client:
        client.config_set("maxmemory", 1)
        output = sink(server.url)
        failure = refusal(output, 1, 2)
        client.config_set("maxmemory", 0)
        assert (failure.final, client.exists("changes")) == (False, 0)
    deliver(output, 1, 2)
    output.close()
    assert ids(server) == ["e1", "e2"]


def test_addresses_are_checked(server: RedisServer) -> None:
    failure = refusal(sink(server.url, Guard()))
    assert failure.final
    assert str(failure) == f"outputs may not connect to {HOST}: {HOST} is a loopback address"
    with free_port() as port:
        failure = refusal(sink(f"redis://{HOST}:{port}"))
    assert not failure.final
    assert "refused" in str(failure)


def test_tls_needs_a_certificate_that_is_trusted(server: RedisServer) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    pem = authority.cert_pem.bytes().decode()
    with relay(server.port, context) as between:
        url = f"rediss://localhost:{between.port}/0"
        failure = refusal(sink(url))
        assert "certificate verify failed" in str(failure)
        assert not failure.final
        output = sink(url, ca_certificates=pem)
        deliver(output, 1)
        output.close()
        broken = refusal(sink(url, ca_certificates="-----BEGIN CERTIFICATE-----"))
        assert (broken.final, str(broken).startswith("output.redis.ca_certificates: ")) == (True, True)
        named = refusal(sink(url.replace("localhost", HOST), ca_certificates=pem))
        assert "IP address mismatch" in str(named)
    assert ids(server) == ["e1"]
