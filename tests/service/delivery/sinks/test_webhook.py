"""Webhooks: signed, in order, the same again after a failure; and how each answer is taken."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from cloudevents.core.bindings import http as binding
from cloudevents.core.formats.json import JSONFormat
from standardwebhooks import WebhookVerificationError

from engine.resources.targets import ContentMode, Webhook
from engine.values import MICROS_PER_SECOND
from service.delivery.guard import Guard, networks_of
from service.delivery.sinks.sink import Event, SinkError, Surroundings
from service.delivery.sinks.webhook import (
    EXCERPT_CHARACTERS_MAX,
    REQUEST_BYTES_MAX,
    RESPONSE_BYTES_MAX,
    RETRY_AFTER_S_MAX,
    PreviousSecret,
    WebhookSink,
    retry_after_s,
)
from tests.service.delivery.endpoint import DROP, HALF, STALL, Answer, Endpoint, closed_port, endpoint

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
CONNECTION = "accounts/a/connections/c"
GUARD = Guard(networks_of("127.0.0.0/8"))
FAR_S = 60.0
"""A deadline that no test reaches."""
SOON_S = 0.2
"""A deadline that a stalled request reaches."""


@pytest.fixture
def receiver() -> Iterator[Endpoint]:
    with endpoint() as found:
        yield found


def event(user: str, number: int = 1, **data: Any) -> Event:
    body = {
        "specversion": "1.0",
        "id": f"{number}.{user}",
        "source": "/accounts/a/audiences/x",
        "type": "milepost.membership.entered",
        "subject": user,
        "time": "2026-11-28T12:00:00Z",
        "datacontenttype": "application/json",
        "data": {"user_id": user, **data},
    }
    return Event(f"{number}.{user}", json.dumps(body, ensure_ascii=False).encode())


def sink(url: str, *, guard: Guard = GUARD, ca_file: Path | None = None, **fields: Any) -> WebhookSink:
    around = Surroundings(Path("unused"), guard)
    if ca_file is not None:
        around = Surroundings(Path("unused"), guard, ca_file)
    return WebhookSink(CONNECTION, Webhook(url, SECRET, **fields), around)


def deliver(to: WebhookSink, *events: Event, within_s: float = FAR_S) -> None:
    to.deliver(events, time.monotonic() + within_s)


def failure(to: WebhookSink, *events: Event, within_s: float = FAR_S) -> SinkError:
    with pytest.raises(SinkError) as failed:
        deliver(to, *events, within_s=within_s)
    to.close()
    return failed.value


# --- requests -----------------------------------------------------------------------------------------------


def test_a_batch_is_one_signed_request(receiver: Endpoint) -> None:
    to = sink(receiver.url)
    deliver(to, event("ann"), event("bob", city="Z\u00fcrich"))
    deliver(to, event("eve"))
    to.close()
    first, second = receiver.requests
    assert (first.path, first.headers["content-type"]) == ("/hook", "application/cloudevents-batch+json")
    assert first.headers["user-agent"] == "milepost"
    assert [each["subject"] for each in first.events] == ["ann", "bob"]
    assert first.events[1]["data"] == {"user_id": "bob", "city": "Z\u00fcrich"}
    for request in (first, second):
        request.verify(SECRET)
        with pytest.raises(WebhookVerificationError):
            request.verify(OTHER_SECRET)
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert abs(int(first.headers["webhook-timestamp"]) - time.time()) < FAR_S
    # One connection for both.
    assert receiver.connections == 1


@pytest.mark.parametrize("mode", [ContentMode.STRUCTURED, ContentMode.BINARY])
def test_one_event_a_request(receiver: Endpoint, mode: ContentMode) -> None:
    to = sink(receiver.url, mode=mode)
    deliver(to, event("ann"), event('b\u00f6b "%\n'), event("eve"))
    to.close()
    found = []
    for request in receiver.requests:
        request.verify(SECRET)
        message = binding.HTTPMessage(dict(request.headers), request.body)
        found.append(binding.from_http(message, JSONFormat()))
    assert [each.get_subject() for each in found] == ["ann", 'b\u00f6b "%\n', "eve"]
    assert [each.get_id() for each in found] == ["1.ann", '1.b\u00f6b "%\n', "1.eve"]
    assert [each.get_data() for each in found] == [{"user_id": each.get_subject()} for each in found]
    is_binary = ["ce-id" in request.headers for request in receiver.requests]
    assert is_binary == [mode is ContentMode.BINARY] * 3
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 3


def test_a_failed_batch_is_sent_again_as_it_was(receiver: Endpoint) -> None:
    """What was added to the batch since goes in a request of its own."""
    receiver.will_answer(Answer(503), Answer(way=DROP))
    to = sink(receiver.url)
    assert not failure(to, event("ann"), event("bob")).progressed
    assert not failure(to, event("ann"), event("bob"), event("eve")).progressed
    deliver(to, event("ann"), event("bob"), event("eve"))
    to.close()
    assert [[each["subject"] for each in request.events] for request in receiver.requests] == [
        ["ann", "bob"],
        ["ann", "bob"],
        ["ann", "bob"],
        ["eve"],
    ]
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert (len(set(ids[:3])), len(set(ids))) == (1, 2)


def test_a_large_batch_is_divided(receiver: Endpoint) -> None:
    """Attributes that a connection opts in to make events large. Parts that were taken are not sent again."""
    third = REQUEST_BYTES_MAX // 3
    users = ["ann", "bob", "eve", "dan", "huge", "joe"]
    sizes = [third, third, third, 10, REQUEST_BYTES_MAX, 10]
    events = [event(user, text="x" * size) for user, size in zip(users, sizes, strict=True)]
    receiver.will_answer(Answer(), Answer(500))
    to = sink(receiver.url)
    assert failure(to, *events).progressed
    deliver(to, *events)
    to.close()
    assert [[each["subject"] for each in request.events] for request in receiver.requests] == [
        ["ann", "bob"],
        ["eve", "dan"],
        ["eve", "dan"],
        ["huge"],
        ["joe"],
    ]


def test_what_was_taken_of_a_batch_is_not_sent_again(receiver: Endpoint) -> None:
    to = sink(receiver.url, mode=ContentMode.STRUCTURED)
    receiver.will_answer(Answer(), Answer(500))
    assert failure(to, event("ann"), event("bob"), event("eve")).progressed
    receiver.will_answer(Answer(500))
    assert not failure(to, event("ann"), event("bob"), event("eve")).progressed
    deliver(to, event("ann"), event("bob"), event("eve"))
    assert receiver.subjects == ["ann", "bob", "bob", "bob", "eve"]
    # The next batch is a new one.
    deliver(to, event("ann", 2))
    to.close()
    assert receiver.subjects[5:] == ["ann"]


def test_the_id_of_a_request_depends_on_connection_and_events(receiver: Endpoint) -> None:
    for connection in ("accounts/a/connections/c", "accounts/a/connections/c", "accounts/a/connections/d"):
        to = WebhookSink(connection, Webhook(receiver.url, SECRET), Surroundings(Path("unused"), GUARD))
        deliver(to, event("ann"))
        to.close()
    ids = [request.headers["webhook-id"] for request in receiver.requests]
    assert (ids[0] == ids[1], ids[0] == ids[2]) == (True, False)


def test_both_secrets_sign_until_the_previous_one_expires(receiver: Endpoint) -> None:
    now_s = int(time.time())
    for expire_s in (now_s + 3_600, now_s - 1):
        previous = PreviousSecret(OTHER_SECRET, expire_s * MICROS_PER_SECOND)
        around = Surroundings(Path("unused"), GUARD)
        to = WebhookSink(CONNECTION, Webhook(receiver.url, SECRET), around, previous)
        deliver(to, event("ann"))
        to.close()
    first, second = receiver.requests
    first.verify(SECRET)
    first.verify(OTHER_SECRET)
    second.verify(SECRET)
    with pytest.raises(WebhookVerificationError):
        second.verify(OTHER_SECRET)


# --- answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success_is_any_2xx(receiver: Endpoint, status: int) -> None:
    receiver.will_answer(Answer(status, body=b"" if status == 204 else b"ok"))
    to = sink(receiver.url)
    receipt = to.deliver([event("ann")], time.monotonic() + FAR_S)
    to.close()
    assert receipt is not None
    assert (receipt.status, receipt.excerpt) == (status, "" if status == 204 else "ok")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_answers_that_are_retried(receiver: Endpoint, status: int) -> None:
    receiver.will_answer(Answer(status, {"Retry-After": "7"}, b"later"), Answer(status))
    to = sink(receiver.url)
    error = failure(to, event("ann"))
    assert (error.final, error.retry_after_s) == (False, 7.0)
    assert str(error).startswith(f"127.0.0.1 answered {status} ")
    assert str(error).endswith(": later")
    assert failure(to, event("ann")).retry_after_s is None


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (301, "redirects are not followed"),
        (307, "redirects are not followed"),
        (400, "no such field"),
        (401, "no such field"),
        (404, "no such field"),
        (410, "the endpoint wants no more"),
        (413, "no such field"),
    ],
)
def test_answers_that_are_final(receiver: Endpoint, status: int, says: str) -> None:
    receiver.will_answer(Answer(status, {"Location": receiver.url}, b"no such field"))
    error = failure(sink(receiver.url), event("ann"))
    assert (error.final, says in str(error), len(receiver.requests)) == (True, True, 1)


def test_a_date_in_retry_after(receiver: Endpoint) -> None:
    until = datetime.fromtimestamp(int(time.time()) + 3_600, UTC)
    receiver.will_answer(Answer(503, {"Retry-After": format_datetime(until, usegmt=True)}))
    error = failure(sink(receiver.url), event("ann"))
    assert error.retry_after_s is not None
    assert 0 < error.retry_after_s <= 3_600


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 5_000, RETRY_AFTER_S_MAX),
        ("Thu, 01 Jan 1970 00:17:40 GMT", 60.0),
        ("Thursday, 01-Jan-70 00:17:40 GMT", 60.0),
        ("Thu Jan  1 00:17:40 1970", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_S_MAX),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("Thu, 99 Foo 1970 00:00:00 GMT", None),
    ],
)
def test_forms_of_retry_after(text: str, wait_s: float | None) -> None:
    assert retry_after_s(text, 1_000.0) == wait_s


def test_an_excerpt_is_short_and_printable(receiver: Endpoint) -> None:
    receiver.will_answer(Answer(400, body=b"<p>\n\x1b[2J" + b"x" * 5_000 + b"\xff"))
    receipt = failure(sink(receiver.url), event("ann")).receipt
    assert receipt is not None
    assert len(receipt.excerpt) == EXCERPT_CHARACTERS_MAX
    assert receipt.excerpt.startswith("<p> \ufffd[2Jxxx")
    assert receipt.excerpt.endswith("x…")


def test_an_endless_answer_is_cut_off(receiver: Endpoint) -> None:
    receiver.will_answer(Answer(200, body=b"y" * (RESPONSE_BYTES_MAX * 40)))
    to = sink(receiver.url)
    deliver(to, event("ann"))
    deliver(to, event("bob"))
    to.close()
    assert (receiver.subjects, receiver.connections) == (["ann", "bob"], 2)


def test_no_error_repeats_a_secret(receiver: Endpoint) -> None:
    url = receiver.url.replace("//", "//user:pass-word@")
    for status in (400, 503):
        receiver.decide = lambda request, status=status: Answer(  # type: ignore[misc]
            status, body=f"{request.headers['authorization']} pass-word {SECRET}".encode()
        )
        error = failure(sink(url), event("ann"))
        assert str(error).partition(": ")[2] == "Basic *** *** ***"
    assert receiver.requests[0].headers["authorization"] == "Basic dXNlcjpwYXNzLXdvcmQ="


def test_cookies_are_not_kept(receiver: Endpoint) -> None:
    receiver.will_answer(Answer(204, {"Set-Cookie": "a=b"}))
    to = sink(receiver.url)
    deliver(to, event("ann"))
    deliver(to, event("bob"))
    to.close()
    assert "cookie" not in receiver.requests[1].headers


# --- networks -----------------------------------------------------------------------------------------------


def test_an_answer_that_ends_half_way_is_retried(receiver: Endpoint) -> None:
    receiver.will_answer(Answer(200, body=b"half", way=HALF))
    to = sink(receiver.url)
    error = failure(to, event("ann"))
    assert not error.final
    deliver(to, event("ann"))
    to.close()
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == 1


def assert_late(error: SinkError) -> None:
    """It depends on the machine what the deadline meets: connecting, sending, or waiting for the answer."""
    assert re.search("not answer in time|not read in time|no time was left|timed out", str(error)), str(error)


def test_a_stalled_request_ends_at_the_deadline(receiver: Endpoint) -> None:
    receiver.will_answer(Answer(way=STALL))
    # It ends although the receiver is never released.
    error = failure(sink(receiver.url), event("ann"), within_s=SOON_S)
    assert not error.final
    assert_late(error)


def test_a_trickle_ends_at_the_deadline() -> None:
    """A byte now and then is within every timeout of a single read."""
    stopped = threading.Event()

    def trickle(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000:
                try:
                    connection.sendall(bytes([byte]))
                except OSError:
                    return
                if stopped.wait(0.01):
                    return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        to = sink(f"http://127.0.0.1:{server.getsockname()[1]}/")
        error = failure(to, event("ann"), within_s=SOON_S)
        stopped.set()
        # On a slow machine the deadline passed before there was a connection to accept.
        socket.create_connection(server.getsockname()).close()
        thread.join()
    assert_late(error)


def test_a_refused_connection_is_retried() -> None:
    error = failure(sink(f"http://127.0.0.1:{closed_port()}/"), event("ann"))
    assert (error.final, "Connection refused" in str(error)) == (False, True)


def test_a_private_address_is_refused(receiver: Endpoint) -> None:
    error = failure(sink(receiver.url, guard=Guard()), event("ann"))
    assert (error.final, receiver.connections) == (True, 0)
    assert str(error) == "outputs may not connect to 127.0.0.1: 127.0.0.1 is a loopback address"


def test_proxies_of_the_environment_are_not_used(receiver: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{closed_port()}")
    to = sink(receiver.url)
    deliver(to, event("ann"))
    to.close()
    assert receiver.subjects == ["ann"]


def test_certificates_are_checked_with_the_ca_file(tmp_path: Path) -> None:
    authority, ca_file = trustme.CA(), tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with endpoint(tls) as receiver:
        error = failure(sink(receiver.url), event("ann"))
        assert (error.final, "CERTIFICATE_VERIFY_FAILED" in str(error)) == (False, True)
        to = sink(receiver.url, ca_file=ca_file)
        deliver(to, event("ann"))
        to.close()
        assert receiver.subjects == ["ann"]


def test_a_missing_ca_file_says_so(tmp_path: Path) -> None:
    error = failure(sink("https://127.0.0.1/", ca_file=tmp_path / "none.pem"), event("ann"))
    assert "see --output-ca-file" in str(error)
