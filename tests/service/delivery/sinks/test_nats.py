"""A JetStream stream has every change once and in order, whatever happens to the server in between."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import certifi
import nats
import nkeys
import pytest
import trustme
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from nats.aio.client import Client, RawCredentials
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from engine.resources.targets import ContentMode, Nats
from service.delivery.guard import Guard, networks_of
from service.delivery.sinks.nats import IN_FLIGHT_MAX, NatsSink, header_text
from service.delivery.sinks.sink import Event, SinkError
from tests.brokers import HOST, NatsServer, free_port, relay
from tests.harness import eventually

T = TypeVar("T")

LOOPBACK = Guard(networks_of("127.0.0.0/8"))
ATTEMPT_S = 60.0
RETRY_S = 0.05
CA_FILE = Path(certifi.where())
SUBJECT = "audiences.keen"
STREAM = "CHANGES"


def event(number: int, user: str = "") -> Event:
    body = f'{{"specversion":"1.0","id":"e{number}","text":"é","data":'.encode()
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


def sink(url: str, guard: Guard = LOOPBACK, **fields: Any) -> NatsSink:
    target = Nats(servers=url, subject=fields.pop("subject", SUBJECT), **fields)
    return NatsSink(target, "accounts/a/connections/c", guard, CA_FILE)


def deliver(output: NatsSink, *numbers: int) -> None:
    output.deliver([event(number) for number in numbers], time.monotonic() + ATTEMPT_S)


def refusal(output: NatsSink, *numbers: int) -> SinkError:
    with pytest.raises(SinkError) as failure:
        deliver(output, *(numbers or (1,)))
    assert not output.is_open
    return failure.value


def ask(server: NatsServer, question: Callable[[JetStreamContext], Awaitable[T]], **login: Any) -> T:
    async def asked() -> T:
        client: Client = await nats.connect(server.url, allow_reconnect=False, **login)
        try:
            return await question(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(asked())


def make_stream(server: NatsServer, **settings: Any) -> None:
    async def made(stream: JetStreamContext) -> None:
        with contextlib.suppress(NotFoundError):
            await stream.delete_stream(STREAM)
        await stream.add_stream(name=STREAM, subjects=["audiences.>"], **settings)

    ask(server, made)


Message = tuple[dict[str, str], bytes]


def messages(server: NatsServer, **login: Any) -> list[Message]:
    """Headers and data of all messages of the stream, in order."""

    async def read(stream: JetStreamContext) -> list[Message]:
        state = (await stream.stream_info(STREAM)).state
        subscription = await stream.subscribe("audiences.>", ordered_consumer=True)
        found = [await subscription.next_msg(ATTEMPT_S) for _ in range(state.messages)]
        return [(dict(each.headers or {}), each.data) for each in found]

    return ask(server, read, **login)


def ids(server: NatsServer, **login: Any) -> list[str]:
    return [json.loads(data)["id"] for _, data in messages(server, **login)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(shared: NatsServer) -> NatsServer:
    """A server with an empty stream."""
    make_stream(shared)
    return shared


def test_messages_are_in_order_and_named_for_what_repeats(server: NatsServer) -> None:
    output = sink(server.url)
    assert not output.is_open
    deliver(output, 1, 2)
    deliver(output, 3)
    assert output.is_open
    output.close()
    deliver(output, 4)
    output.close()
    assert messages(server) == [
        ({"Nats-Msg-Id": f"/accounts/a/audiences/x/e{number}#c"}, event(number).body)
        for number in (1, 2, 3, 4)
    ]


def test_a_batch_that_is_sent_again_is_in_the_stream_once(server: NatsServer) -> None:
    for _ in range(2):
        output = sink(server.url)
        deliver(output, *range(10))
        output.close()
    assert ids(server) == [f"e{number}" for number in range(10)]


def test_a_large_batch_with_users_who_come_again(server: NatsServer) -> None:
    output = sink(server.url)
    events = [event(number, f"u{number % 700}") for number in range(2 * IN_FLIGHT_MAX + 1)]
    output.deliver(events, time.monotonic() + ATTEMPT_S)
    output.close()
    assert ids(server) == [each.id for each in events]


def test_binary_messages_are_read_as_they_were_meant(server: NatsServer) -> None:
    output = sink(server.url, mode=ContentMode.BINARY)
    user = 'é "x" %\n'
    output.deliver([event(1, "ann"), event(2, user)], time.monotonic() + ATTEMPT_S)
    output.close()
    first, second = messages(server)
    assert first[1] == b'{"user_id":"ann"}'
    read = from_http_event(HTTPMessage(first[0], first[1]))
    assert (read.get_id(), read.get_source(), read.get_subject()) == ("e1", "/accounts/a/audiences/x", "ann")
    assert read.get_type() == "milepost.membership.entered"
    assert second[0]["ce-subject"] == "%C3%A9%20%22x%22%20%25%0A" == header_text(user).decode()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_that_comes_back_gets_what_is_missing(tmp_path: Path, end: str) -> None:
    with NatsServer(tmp_path) as server:
        make_stream(server)
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


def test_a_server_that_is_killed_half_way_has_each_change_once(tmp_path: Path) -> None:
    """However far the batch was: the stream knows what it has, also after a restart."""
    events = [event(number) for number in range(5_000)]
    with NatsServer(tmp_path) as server, ThreadPoolExecutor(1) as sender:
        make_stream(server)
        output = sink(server.url)

        def deliver_all() -> int:
            for failures in itertools.count():
                with contextlib.suppress(SinkError):
                    output.deliver(events, time.monotonic() + ATTEMPT_S)
                    return failures
                time.sleep(RETRY_S)
            raise AssertionError

        sending = sender.submit(deliver_all)
        eventually(lambda: output.is_open)
        server.kill()
        server.start()
        sending.result(ATTEMPT_S)
        output.close()
        assert ids(server) == [each.id for each in events]


def test_a_connection_that_ends_while_nothing_is_sent_is_no_failure(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        make_stream(server)
        output = sink(server.url)
        deliver(output, 1)
        server.stop()
        eventually(lambda: not output.is_open)
        server.start()
        deliver(output, 2)
        output.close()
        assert ids(server) == ["e1", "e2"]


def test_another_server_of_the_list_is_tried(server: NatsServer) -> None:
    with free_port() as port:
        output = sink(f"nats://{HOST}:{port},{server.url}")
        deliver(output, 1)
        output.close()
    assert ids(server) == ["e1"]


def test_answers_that_are_lost_repeat_nothing(server: NatsServer) -> None:
    with relay(server.port) as between:
        output = sink(f"nats://{HOST}:{between.port}")
        deliver(output, 1)
        between.drop_answers()
        assert not refusal(output, 2, 3).final
        between.pass_answers()
        deliver(output, 2, 3)
        output.close()
    assert ids(server) == ["e1", "e2", "e3"]


def test_a_server_that_does_not_answer_takes_no_longer_than_the_attempt(server: NatsServer) -> None:
    with relay(server.port) as between:
        between.drop_answers(close=False)
        output = sink(f"nats://{HOST}:{between.port}")
        began = time.monotonic()
        with pytest.raises(SinkError, match="no answer in time") as failure:
            output.deliver([event(1)], time.monotonic() + 0.2)
        assert time.monotonic() - began >= 0.2
        assert not failure.value.final


def test_what_the_stream_has_of_a_batch_that_fails_is_not_sent_again(server: NatsServer) -> None:
    """One message is refused; those of other users are in the stream, and no later one of its user is."""
    make_stream(server, max_msg_size=1_000, duplicate_window=1.0)
    output = sink(server.url)
    large = Event(id="e1", body=b'{"id":"e1","text":"' + b"x" * 2_000 + b'"}', subject="ann")
    batch = [event(0, "bob"), large, event(2, "eve"), event(3, "ann"), event(4, "bob")]
    with pytest.raises(SinkError, match="larger than the max_msg_size of the stream") as failure:
        output.deliver(batch, time.monotonic() + ATTEMPT_S)
    assert (failure.value.final, failure.value.progressed) == (True, True)
    assert ids(server) == ["e0", "e2"]
    make_stream(server)
    # The stream is another one, and still only what was not confirmed is sent.
    output.deliver(batch, time.monotonic() + ATTEMPT_S)
    output.close()
    assert ids(server) == ["e1", "e3", "e4"]


def test_a_missing_stream_is_final_and_names_the_subject(server: NatsServer) -> None:
    failure = refusal(sink(server.url, subject="other"))
    assert failure.final
    assert str(failure) == (
        "output.nats.subject: no stream of the server takes other; change it with UpdateOutput, then resume "
        "the connection"
    )


def test_a_full_stream_is_tried_again(server: NatsServer) -> None:
    make_stream(server, max_msgs=2, discard="new")
    output = sink(server.url)
    deliver(output, 1, 2)
    failure = refusal(output, 3)
    assert (failure.final, "maximum messages exceeded" in str(failure)) == (False, True)


def test_a_change_over_the_limit_of_the_server_is_final(tmp_path: Path) -> None:
    with NatsServer(tmp_path, "max_payload: 512") as server:
        make_stream(server)
        output = sink(server.url)
        large = Event(id="e1", body=b"x" * 600, subject="ann")
        with pytest.raises(SinkError, match=r"600 bytes is larger than the max_payload") as failure:
            output.deliver([large], time.monotonic() + ATTEMPT_S)
        output.close()
        assert failure.value.final


ACCOUNTS = """
accounts {
  A: {
    jetstream: enabled
    users: [
      {user: ann, password: "a b"}
      {user: reader, password: r, permissions: {publish: {deny: "audiences.>"}}}
    ]
  }
}
"""


def test_users_and_their_permissions(tmp_path: Path) -> None:
    with NatsServer(tmp_path, ACCOUNTS) as server:
        login = {"user": "ann", "password": "a b"}

        async def made(stream: JetStreamContext) -> None:
            await stream.add_stream(name=STREAM, subjects=["audiences.>"])

        ask(server, made, **login)
        place = f"{HOST}:{server.port}"
        for url in (server.url, f"nats://ann:wrong@{place}", f"nats://token@{place}"):
            failure = refusal(sink(url))
            assert (failure.final, str(failure)[:21]) == (True, "output.nats.servers: "), failure
            assert "wrong" not in str(failure)
        failure = refusal(sink(f"nats://reader:r@{place}"))
        assert (failure.final, "the user may not publish to it" in str(failure)) == (True, True)
        output = sink(f"nats://ann:a%20b@{place}")
        deliver(output, 1)
        output.close()
        assert ids(server, **login) == ["e1"]


def jwt(keys: Any, signer: Any, name: str, claims: dict[str, Any]) -> str:
    """A token of NATS, signed by an operator or an account."""
    body = {
        "jti": name,
        "iat": 1_700_000_000,
        "iss": signer.public_key.decode(),
        "name": name,
        "sub": keys.public_key.decode(),
        "nats": {"version": 2, **claims},
    }
    parts = [json.dumps(part).encode() for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    return (text + b"." + base64.urlsafe_b64encode(signer.sign(text)).rstrip(b"=")).decode()


def test_credentials(tmp_path: Path) -> None:
    """A server whose users have credentials files, as those of large installations have."""
    kinds = (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_ACCOUNT)
    seeds = [nkeys.encode_seed(os.urandom(32), kind) for kind in (*kinds, nkeys.PREFIX_BYTE_USER)]
    operator, system, account, user = (nkeys.from_seed(bytearray(seed)) for seed in seeds)
    unlimited = dict.fromkeys(("subs", "data", "payload", "conn", "leaf", "imports", "exports"), -1)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    limits = {"type": "account", "limits": {**unlimited, **stored, "wildcards": True}}
    preloaded = {
        system: jwt(system, operator, "SYS", {"type": "account", "limits": {**unlimited, "wildcards": True}}),
        account: jwt(account, operator, "A", limits),
    }
    lines = [f"{keys.public_key.decode()}: {token}" for keys, token in preloaded.items()]
    settings = "\n".join(
        [
            f"operator: {jwt(operator, operator, 'O', {'type': 'operator'})}",
            f"system_account: {system.public_key.decode()}",
            "resolver: MEMORY",
            "resolver_preload: {",
            *lines,
            "}",
        ]
    )
    token = jwt(user, account, "ann", {"type": "user", "pub": {}, "sub": {}, **unlimited})
    credentials = (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(seeds[3]).decode()}\n------END USER NKEY SEED------\n"
    )
    with NatsServer(tmp_path, settings) as server:
        login = {"user_credentials": RawCredentials(credentials)}

        async def made(stream: JetStreamContext) -> None:
            await stream.add_stream(name=STREAM, subjects=["audiences.>"])

        ask(server, made, **login)
        failure = refusal(sink(server.url))
        assert (failure.final, str(failure)[:21]) == (True, "output.nats.servers: ")
        other = credentials.replace(token, token[:-4] + "AAAA")
        failure = refusal(sink(server.url, credentials=other))
        assert (failure.final, str(failure)[:25]) == (True, "output.nats.credentials: ")
        output = sink(server.url, credentials=credentials)
        deliver(output, 1)
        output.close()
        assert ids(server, **login) == ["e1"]


def test_tokens(tmp_path: Path) -> None:
    with NatsServer(tmp_path, "authorization { token: secret }") as server:
        assert refusal(sink(f"nats://other@{HOST}:{server.port}")).final
        output = sink(f"nats://secret@{HOST}:{server.port}")
        failure = refusal(output)
        assert "no stream of the server takes" in str(failure)


def test_addresses_are_checked(server: NatsServer) -> None:
    failure = refusal(sink(server.url, Guard()))
    assert failure.final
    assert str(failure) == f"outputs may not connect to {HOST}: {HOST} is a loopback address"
    with free_port() as port:
        failure = refusal(sink(f"nats://{HOST}:{port}"))
    assert not failure.final
    assert f"{HOST}:{port}: " in str(failure)


def test_tls_is_required_where_the_url_asks_for_it(tmp_path: Path, server: NatsServer) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    pem = authority.cert_pem.bytes().decode()
    failure = refusal(sink(f"tls://ann:secret@{HOST}:{server.port}"))
    assert (failure.final, "does not offer TLS" in str(failure)) == (True, True)
    tls = f'tls {{ cert_file: "{tmp_path / "cert.pem"}", key_file: "{tmp_path / "key.pem"}" }}'
    with NatsServer(tmp_path / "tls", tls) as secure:
        url = f"tls://localhost:{secure.port}"
        assert "certificate verify failed" in str(refusal(sink(url)))
        failure = refusal(sink(url, ca_certificates=pem))
        assert "no stream of the server takes" in str(failure)
        failure = refusal(sink(url.replace("localhost", HOST), ca_certificates=pem))
        assert "IP address mismatch" in str(failure)
