"""The contract over HTTP, on a real port: refusals, keys, limits, deadlines, streams, stopping."""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from structlog.testing import capture_logs

from milepost.v1 import audience_service_pb2_grpc
from service import web
from service.auth.listening import CannotListen
from service.command import run as run_command
from service.limits import RECEIVE_BYTES_MAX
from service.server import SERVICE_NAMES
from tests.connect_channel import ConnectChannel
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, Serving, eventually, read_refusal, serving
from tests.service.auth.keyed import keyed
from tests.service.delivery.test_delivery import build, connect, wait_for
from tests.service.test_watch import request_of, until_mark

ACCOUNTS = "/milepost.v1.AccountService"
GET = f"{ACCOUNTS}/GetAccount"
WATCH = "/milepost.v1.AudienceService/WatchMembership"
JSON = {"content-type": "application/json"}
NAME = json.dumps({"name": ACCOUNT}).encode()
NAME_AS_PROTO = b"\n\naccounts/a"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def tree(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        reasons = [each["debug"]["reason"] for each in self.tree["details"] if "reason" in each["debug"]]
        return str(reasons[0])

    @property
    def faults(self) -> dict[str, str]:
        """Field → description."""
        return {
            fault["field"]: fault["description"]
            for each in self.tree["details"]
            for fault in each["debug"].get("fieldViolations", ())
        }


def ask(service: Serving, path: str, body: bytes = b"{}", *, method: str = "POST", **headers: str) -> Answer:
    """An answer over HTTP. Underscores in the names of headers stand for hyphens."""
    sent = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
    assert service.application.http_address is not None
    connection = http.client.HTTPConnection(service.application.http_address, timeout=CALL_TIMEOUT_S)
    connection.request(method, path, body, sent)
    response = connection.getresponse()
    answer = Answer(
        response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    )
    connection.close()
    return answer


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    directory = tmp_path_factory.mktemp("http")
    settings = {"http_cors_origins": "https://a.example, https://b.example", "access_log": "none"}
    with serving(directory / "store", http_port=0, batch_bytes_max=1 << 20, **settings) as made:
        made.create_inputs()
        yield made


# --- answers ---


def test_without_a_port_no_http_is_served(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none") as made:
        assert made.application.http_address is None
        assert "web" not in {thread.name for thread in threading.enumerate()}
    assert not (tmp_path / "store" / "writer.sock").exists()


def test_a_call_with_json_protobuf_and_grpc_web(service: Serving) -> None:
    in_json = ask(service, GET, NAME)
    assert (in_json.status, in_json.headers["content-type"]) == (200, "application/json")
    assert in_json.tree["account"]["name"] == ACCOUNT
    in_proto = ask(service, GET, NAME_AS_PROTO, content_type="application/proto")
    assert (in_proto.status, in_proto.headers["content-type"]) == (200, "application/proto")
    assert in_proto.body[:14] == b"\n" + in_proto.body[1:2] + NAME_AS_PROTO
    framed = struct.pack(">BI", 0, len(NAME_AS_PROTO)) + NAME_AS_PROTO
    on_the_web = ask(service, GET, framed, content_type="application/grpc-web+proto")
    length = len(in_proto.body)
    assert on_the_web.body[: 5 + length] == struct.pack(">BI", 0, length) + in_proto.body
    assert on_the_web.body[5 + length] == 0x80
    assert b"grpc-status: 0\r\n" in on_the_web.body[5 + length :]


def test_a_refusal_over_grpc_web_has_its_details(service: Serving) -> None:
    message = b"\n\naccounts/x"
    framed = struct.pack(">BI", 0, len(message)) + message
    answer = ask(service, GET, framed, content_type="application/grpc-web")
    assert (answer.status, answer.body[0]) == (200, 0x80)
    assert b"grpc-status: 5\r\n" in answer.body
    assert b"grpc-status-details-bin: " in answer.body


def test_compressed_requests_and_answers(service: Serving) -> None:
    answer = ask(service, GET, gzip.compress(NAME), content_encoding="gzip", accept_encoding="gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(answer.body))["account"]["name"] == ACCOUNT


def test_a_request_id_comes_back(service: Serving) -> None:
    assert ask(service, GET, NAME, x_request_id="r-7").headers["trailer-x-request-id"] == "r-7"


def test_health_needs_no_data(service: Serving) -> None:
    path = "/grpc.health.v1.Health/Check"
    assert ask(service, path, b'{"service": "milepost.v1.IngestService"}').tree == {"status": "SERVING"}


def test_the_description_names_every_method(service: Serving) -> None:
    answer = ask(service, "/openapi.json", b"", method="GET")
    assert answer.status == 200
    services = map(Default().FindServiceByName, SERVICE_NAMES)
    expected = {f"/{each.full_name}/{method.name}" for each in services for method in each.methods}
    assert answer.tree["paths"].keys() == expected
    schemas = answer.tree["components"]["schemas"]
    assert {each.removeprefix("#/components/schemas/") for each in _references(answer.tree)} <= schemas.keys()
    assert schemas["milepost.v1.Criteria"]["properties"]["not"]["$ref"].endswith("/milepost.v1.Criteria")


def _references(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if "$ref" in tree:
            yield tree["$ref"]
        tree = list(tree.values())
    if isinstance(tree, list):
        for each in tree:
            yield from _references(each)


# --- refusals ---


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "reason"),
    [
        (GET, b'{"name": "accounts/none"}', {}, 404, "RESOURCE_NOT_FOUND"),
        (GET, b'{"name": "accounts/none"}', {"content_type": "text/plain"}, 415, "INVALID_ARGUMENT"),
        (GET, NAME, {"content_type": "application/grpc"}, 415, "INVALID_ARGUMENT"),
        (f"{ACCOUNTS}/GetAcount", NAME, {}, 404, "UNKNOWN_METHOD"),
        ("/", NAME, {}, 404, "UNKNOWN_METHOD"),
        (WATCH, NAME, {}, 415, "INVALID_ARGUMENT"),
        (GET, b"{", {}, 400, "INVALID_ARGUMENT"),
        (GET, b"[]", {}, 400, "INVALID_ARGUMENT"),
        (GET, b"\xff", {}, 400, "INVALID_ARGUMENT"),
        (GET, b"[" * 50_000, {}, 400, "INVALID_ARGUMENT"),
        (GET, b'{"name": 1' + b"0" * 5_000 + b"}", {}, 400, "INVALID_ARGUMENT"),
        (GET, b'{"name": "accounts/\xed\xa0\x80"}', {}, 400, "INVALID_ARGUMENT"),
        (GET, b'{"name": "accounts/\\ud800"}', {}, 400, "INVALID_ARGUMENT"),
        (GET, b"\xff\xff", {"content_type": "application/proto"}, 400, "INVALID_ARGUMENT"),
        (GET, NAME, {"connect_timeout_ms": "-1"}, 400, "INVALID_ARGUMENT"),
        (GET, NAME, {"connect_timeout_ms": "0"}, 504, "DEADLINE_EXCEEDED"),
        (GET, NAME, {"content_encoding": "br"}, 501, "NOT_BUILT"),
        (GET, b"not compressed", {"content_encoding": "gzip"}, 400, "INVALID_ARGUMENT"),
        (GET, NAME, {"x_request_id": "\u00e9"}, 400, "INVALID_ARGUMENT"),
        (GET, NAME, {"connect_protocol_version": "2"}, 400, "INVALID_ARGUMENT"),
        (GET, b" " * ((1 << 20) + 1), {}, 400, "INVALID_ARGUMENT"),
        (GET, b" " * (RECEIVE_BYTES_MAX + 1), {}, 429, "LIMIT_EXCEEDED"),
        (
            GET,
            gzip.compress(b" " * (RECEIVE_BYTES_MAX + 1)),
            {"content_encoding": "gzip"},
            429,
            "LIMIT_EXCEEDED",
        ),
    ],
)
def test_every_refusal_has_a_reason(
    service: Serving, path: str, body: bytes, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = ask(service, path, body, **headers)
    assert (answer.status, answer.reason) == (status, reason)


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("", 415, "encoding"),
        ("?connect=v1&message=%7B%7D", 415, "encoding"),
        ("?connect=v1&encoding=xml&message=%7B%7D", 415, "encoding"),
        ("?connect=v2&encoding=json&message=%7B%7D", 400, "connect"),
    ],
)
def test_a_read_in_a_query_that_is_refused_has_a_reason(
    service: Serving, query: str, status: int, field: str
) -> None:
    answer = ask(service, GET + query, b"", method="GET")
    assert (answer.status, answer.reason) == (status, "INVALID_ARGUMENT")
    assert json.loads(answer.body)["message"].startswith(f"{field}: ")


def test_a_method_of_one_message_takes_one(service: Serving) -> None:
    message = struct.pack(">BI", 0, len(NAME_AS_PROTO)) + NAME_AS_PROTO
    for path, form, count in itertools.product((GET, WATCH), ("grpc-web+proto", "connect+proto"), (0, 2)):
        if path == GET and form == "connect+proto":
            continue
        answer = ask(service, path, message * count, content_type=f"application/{form}")
        assert answer.status == 200
        fault = "more than one message" if count else "the caller sent no message"
        assert fault in unquote(answer.body.decode("latin-1"))
        if form == "connect+proto":
            assert b'"code": "invalid_argument"' in answer.body
            assert b"INVALID_ARGUMENT" in answer.body
        else:
            assert b"grpc-status: 3\r\n" in answer.body
            assert b"grpc-status-details-bin: " in answer.body


def test_a_request_that_is_too_large_names_the_limit(service: Serving) -> None:
    answer = ask(service, GET, b" " * (RECEIVE_BYTES_MAX + 1))
    [info] = [each["debug"] for each in answer.tree["details"]]
    assert (info["reason"], info["metadata"]) == (
        "LIMIT_EXCEEDED",
        {"limit": str(RECEIVE_BYTES_MAX), "unit": "bytes"},
    )


def test_reads_are_called_with_post_or_get_and_writes_with_post(service: Serving) -> None:
    query = f"?connect=v1&encoding=json&message={quote(NAME)}"
    answer = ask(service, GET + query, b"", method="GET")
    assert (answer.status, answer.tree["account"]["name"]) == (200, ACCOUNT)
    missing = ask(service, GET + "?connect=v1&encoding=json", b"", method="GET")
    assert (missing.status, missing.reason) == (400, "INVALID_ARGUMENT")
    read = ask(service, GET, b"", method="PUT")
    assert (read.status, read.headers["allow"], read.reason) == (405, "GET, POST", "INVALID_ARGUMENT")
    assert read.faults == {"method": "is PUT; this path takes GET, POST"}
    write = ask(service, f"{ACCOUNTS}/CreateAccount{query}", b"", method="GET")
    assert (write.status, write.headers["allow"], write.reason) == (405, "POST", "INVALID_ARGUMENT")
    stream = ask(service, WATCH, b"", method="GET")
    assert (stream.status, stream.headers["allow"], stream.reason) == (405, "POST", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("body", "field", "description"),
    [
        ({"nme": "x"}, "nme", "is not a field of this message: the fields are name"),
        ({"name": 7}, "name", "must be a string of Unicode characters, not 7"),
        (None, "request", "must be an object, not null"),
        (0, "request", "must be an object, not a number"),
        ([], "request", "must be an object, not a list"),
        ("", "request", "must be an object, not a string"),
        (True, "request", "must be an object, not a boolean"),
        ({"name": "acme"}, "name", "accounts/{account}"),
    ],
)
def test_a_fault_of_json_names_the_field(service: Serving, body: Any, field: str, description: str) -> None:
    answer = ask(service, GET, json.dumps(body).encode())
    assert (answer.status, list(answer.faults)) == (400, [field])
    assert description in answer.faults[field]


def test_a_batch_has_the_limits_of_a_batch(service: Serving) -> None:
    path = "/milepost.v1.IngestService/IngestEvents"
    answer = ask(service, path, b'{"events": [' + b"{}," * 600_000 + b"{}]}")
    assert (answer.status, answer.reason) == (400, "BATCH_TOO_LARGE")
    assert answer.faults == {"events": "has 1,800,016 bytes; at most 1,048,576 are allowed"}


# --- keys ---


def test_calls_need_a_key_and_have_its_scopes_and_limits(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", http_port=0) as site:
        site.operator.create_inputs()
        service, operator = site.service, f"Bearer {site.operator.secret}"
        secret = site.operator.create_key(ACCOUNT, "reader", "READ", calls_per_second_max=3)
        reader = f"Bearer {secret}"
        for headers in ({}, {"authorization": "Bearer x"}, {"authorization": site.operator.secret}):
            for path in (GET, f"{ACCOUNTS}/Nope", "/"):
                answer = ask(service, path, NAME, **headers)
                assert (answer.status, answer.reason) == (401, "UNAUTHENTICATED")
        assert ask(service, "/", NAME, authorization=operator).reason == "UNKNOWN_METHOD"
        assert ask(service, GET, NAME, authorization=operator).status == 200
        assert ask(service, "/grpc.health.v1.Health/Check").status == 200
        assert ask(service, GET, NAME, authorization=reader).status == 200
        assert ask(service, GET, b'{"name": "accounts/b"}', authorization=reader).status == 404
        denied = ask(service, f"{ACCOUNTS}/DeleteWorkspace", authorization=reader)
        assert (denied.status, denied.reason) == (403, "SCOPE_MISSING")

        # Calls of methods that do not exist count too.
        paths = itertools.cycle((f"{ACCOUNTS}/Nope", GET))

        def limited() -> Answer | None:
            answer = ask(service, next(paths), NAME, authorization=reader)
            return answer if answer.status == 429 else None

        refused = eventually(limited)
        assert refused is not None
        assert refused.reason == "RATE_LIMITED"
        assert refused.tree["details"][1]["debug"]["retryDelay"].endswith("s")


def test_a_caller_without_a_key_uploads_nothing(tmp_path: Path) -> None:
    with keyed(tmp_path / "store", http_port=0) as site:
        assert site.service.application.http_address is not None
        connection = http.client.HTTPConnection(site.service.application.http_address, timeout=CALL_TIMEOUT_S)
        connection.putrequest("POST", GET)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "1000000")
        connection.endheaders()
        # Nothing of the body was sent.
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["code"]) == (401, "unauthenticated")
        connection.close()


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:80", "[::1]", "[::1]:80"])
def test_without_keys_callers_name_this_machine(service: Serving, host: str) -> None:
    assert ask(service, GET, NAME, host=host).status == 200


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:80", "10.0.0.1", "127.0.0.1.evil.example"]
)
def test_without_keys_a_page_of_another_name_is_refused(service: Serving, host: str) -> None:
    answer = ask(service, GET, NAME, host=host)
    assert (answer.status, answer.reason) == (401, "UNAUTHENTICATED")


# --- pages of other sites ---


def test_pages_of_the_named_origins_may_call(service: Serving) -> None:
    asked = {
        "access_control_request_method": "POST",
        "access_control_request_headers": "content-type,authorization",
    }
    for origin in ("https://a.example", "https://b.example"):
        preflight = ask(service, GET, b"", method="OPTIONS", origin=origin, **asked)
        assert (preflight.status, preflight.headers["access-control-allow-origin"]) == (200, origin)
        assert "connect-protocol-version" in preflight.headers["access-control-allow-headers"]
        answer = ask(service, GET, NAME, origin=origin)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    other = ask(service, GET, b"", method="OPTIONS", origin="https://c.example", **asked)
    assert (other.status, "access-control-allow-origin" in other.headers) == (400, False)


def test_without_origins_no_page_may_call(tmp_path: Path) -> None:
    with serving(tmp_path / "store", http_port=0, access_log="none") as made:
        preflight = ask(made, GET, b"", method="OPTIONS", origin="https://a.example")
        assert "access-control-allow-origin" not in preflight.headers


# --- streams ---


@pytest.fixture(params=[0, 1], ids=["no reader", "one reader"])
def watched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Serving, str]]:
    """A service with a calculated audience of u1, u2 and u3."""
    with serving(tmp_path / "store", http_port=0, readers=request.param, access_log="none") as made:
        audience = build(made)
        connect(made, audience)
        wait_for(made, 3)
        yield made, audience


def watch(service: Serving, audience: str, timeout_s: float = CALL_TIMEOUT_S) -> Any:
    assert service.application.http_address is not None
    channel: Any = ConnectChannel(service.application.http_address)
    stub = audience_service_pb2_grpc.AudienceServiceStub(channel)
    return stub.WatchMembership(request_of(audience, snapshot=True), timeout=timeout_s)


def test_a_watch_ends_when_its_caller_leaves_and_at_its_deadline(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = watch(service, audience)
    items, cursor = until_mark(stream)
    assert sorted(user for item in items for user in item.snapshot.user_ids) == ["u1", "u2", "u3"]
    assert (cursor, service.application.in_flight) == (3, 1)
    stream.cancel()
    eventually(lambda: service.application.in_flight == 0)

    with pytest.raises(grpc.RpcError) as caught:
        list(watch(service, audience, timeout_s=0.5))
    refusal = read_refusal(caught.value)
    assert (refusal.code.name, refusal.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    eventually(lambda: service.application.in_flight == 0)


def test_a_stop_ends_watches_and_lets_calls_end(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    stream = watch(service, audience)
    until_mark(stream)
    stopping = threading.Thread(target=service.application.stop)
    stopping.start()
    with pytest.raises(grpc.RpcError) as caught:
        list(stream)
    refusal = read_refusal(caught.value)
    assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
    stopping.join(CALL_TIMEOUT_S)
    assert not stopping.is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(service, GET, NAME)


def test_a_silent_caller_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "store", http_port=0, stream_idle_s=0.2, access_log="none") as made:
        assert made.application.http_address is not None
        connection = http.client.HTTPConnection(made.application.http_address, timeout=CALL_TIMEOUT_S)
        connection.putrequest("POST", GET)
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "10")
        connection.endheaders()
        response = connection.getresponse()
        answer = Answer(response.status, {}, response.read())
        connection.close()
        assert (answer.status, answer.reason) == (409, "STREAM_IDLE")


@pytest.mark.parametrize("readers", [0, 1])
def test_a_caller_that_still_sends_hears_that_the_service_stops(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, readers: int
) -> None:
    stream, unary = "/milepost.v1.IngestService/StreamEvents", "/milepost.v1.IngestService/IngestEvents"
    with serving(tmp_path / "store", http_port=0, readers=readers, access_log="none") as made:
        assert made.application.http_address is not None
        connections = []
        for path, kind in ((GET, "json"), (unary, "proto"), (stream, "connect+json"), (GET, "grpc-web")) * 3:
            connection = http.client.HTTPConnection(made.application.http_address, timeout=CALL_TIMEOUT_S)
            connection.putrequest("POST", path)
            connection.putheader("content-type", f"application/{kind}")
            connection.putheader("content-length", "1000")
            connection.endheaders(b"{" if kind == "json" else b"")
            connections.append((connection, kind))
        # One that is answered comes after them.
        assert ask(made, "/grpc.health.v1.Health/Check").status == 200
        made.application.stop()
        for connection, kind in connections:
            response = connection.getresponse()
            body = response.read()
            connection.close()
            if kind == "grpc-web":
                assert b"grpc-status: 14\r\n" in body
                assert b"grpc-status-details-bin" in body
            elif kind == "connect+json":
                assert b'"code": "unavailable"' in body
                assert b"STORE_UNAVAILABLE" in body
            else:
                answer = Answer(response.status, {}, body)
                assert (answer.status, answer.reason) == (503, "STORE_UNAVAILABLE")
                assert answer.tree["details"][1]["debug"]["retryDelay"].endswith("s")
    assert caplog.text == ""


def test_headers_have_to_come_in_time(tmp_path: Path) -> None:
    with serving(tmp_path / "store", http_port=0, stream_idle_s=0.2, access_log="none") as made:
        made.create_inputs()
        assert made.application.http_address is not None
        host, _, port = made.application.http_address.rpartition(":")
        head = f"POST {GET} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n".encode()
        whole = head + b"content-length: %d\r\n\r\n" % len(NAME) + NAME
        # Nothing at all, a part of the first request, and a part of the second one, also in one piece.
        for sent, answers in ((b"", 0), (head, 0), (whole + head, 1), (whole * 2 + b"P", 2)):
            with socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S) as connection:
                connection.sendall(sent)
                received = b"".join(iter(partial(connection.recv, 65_536), b""))
            assert received.count(b"HTTP/1.1 200 ") == answers
            *_, last = received.split(b"HTTP/1.1 ")
            top, _, body = last.partition(b"\r\n\r\n")
            assert top.startswith(b"408 ")
            assert Answer(408, {}, body).reason == "STREAM_IDLE"
        # A connection may rest between requests.
        resting = http.client.HTTPConnection(made.application.http_address, timeout=CALL_TIMEOUT_S)
        for pause_s in (0.5, 0.0):
            resting.request("POST", GET, NAME, JSON)
            answer = resting.getresponse()
            assert (answer.status, bool(answer.read())) == (200, True)
            time.sleep(pause_s)
        resting.close()


@pytest.mark.parametrize("sent", [b"\x16\x03\x01", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000])
def test_what_is_no_http_is_refused_with_a_reason(service: Serving, sent: bytes) -> None:
    assert service.application.http_address is not None
    host, _, port = service.application.http_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=CALL_TIMEOUT_S) as connection:
        connection.sendall(sent + b"\r\n\r\n")
        received = b"".join(iter(partial(connection.recv, 65_536), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert Answer(400, {}, received.partition(b"\r\n\r\n")[2]).reason == "INVALID_ARGUMENT"


def test_streams_have_a_limit(tmp_path: Path) -> None:
    limits = {"watchers_max": 1, "exports_max": 1, "streams_max": 1, "imports_max": 1}
    with serving(tmp_path / "store", http_port=0, access_log="none", **limits) as made:
        audience = build(made)
        connect(made, audience)
        wait_for(made, 3)
        first = watch(made, audience)
        until_mark(first)
        with pytest.raises(grpc.RpcError) as caught:
            next(watch(made, audience))
        refusal = read_refusal(caught.value)
        assert (refusal.reason, refusal.metadata["pool"]) == ("LIMIT_EXCEEDED", "watcher")
        first.cancel()


# --- the process ---


def test_a_service_in_memory_answers_too(tmp_path: Path) -> None:
    with serving(tmp_path, memory=True, http_port=0, access_log="none") as made:
        made.create_inputs()
        assert ask(made, GET, NAME).tree["account"]["name"] == ACCOUNT


def test_the_log_names_the_caller_s_address(tmp_path: Path) -> None:
    with capture_logs() as logs, serving(tmp_path / "store", http_port=0, access_log="all") as made:
        ask(made, GET, NAME)
    [line] = [each for each in logs if each["event"] == "call"]
    assert (line["method"], line["code"]) == (GET, "NOT_FOUND")
    assert line["peer"].startswith("ipv4:127.0.0.1:")


def test_a_port_that_is_taken_is_refused(service: Serving, tmp_path: Path) -> None:
    address = service.application.http_address
    assert address is not None
    with (
        pytest.raises(CannotListen, match=f"cannot serve HTTP on {address}: Address already in use"),
        serving(tmp_path / "store", http_port=int(address.rpartition(":")[2])),
    ):
        pass


def test_without_keys_http_is_for_this_machine(tmp_path: Path) -> None:
    with (
        pytest.raises(CannotListen, match=r"refusing to listen on 0\.0\.0\.0 without API keys"),
        serving(tmp_path / "store", http_port=0, http_host="0.0.0.0"),
    ):
        pass


def test_without_the_packages_the_start_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web, "NEEDED", ("connectrpc_none",))
    arguments = ["--data-dir", str(tmp_path / "store"), "--http-port", "0"]
    no_signals: Any = None
    assert run_command(arguments, no_signals) == 2
    expected = "--http-port 0: connectrpc_none is not installed: pip install 'milepost-server[http]'"
    assert expected in capsys.readouterr().err
