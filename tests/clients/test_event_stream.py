"""Streams of events: bounded, and complete through broken connections."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost import Client, _retrying, errors, make_event
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import (
    IngestEventsResponse,
    StreamEventsRequest,
    StreamEventsResponse,
)
from tests.clients.bridge import async_client
from tests.clients.fake import Fake, Refusal
from tests.clients.fake import serving as fake_serving
from tests.clients.methods.conftest import Kind
from tests.clients.proxy import proxied
from tests.clients.test_client import DOWN, LIMITED, TIME
from tests.harness import eventually, serving

BATCHES = 60
CUTS = 6
SECOND_SERVICE_AT = 40


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_retrying, "BACKOFF_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(_retrying, "BACKOFF_LAST_SECONDS", 0.05)


def events(*user_ids: str) -> list[Event]:
    return [make_event(user, "buy", TIME) for user in user_ids]


def accepted(request: StreamEventsRequest) -> StreamEventsResponse:
    result = IngestEventsResponse(
        accepted=len(request.batch.events), revision=f"after {request.batch.request_id}"
    )
    return StreamEventsResponse(sequence=request.sequence, result=result)


def test_nothing_is_lost_or_stored_twice_through_cuts_and_a_restart(kind: Kind, tmp_path: Path) -> None:
    """The events have no ids of their own: only the request ids of the batches keep them apart."""
    drawn = random.Random(7)
    cuts = set(drawn.sample(range(1, BATCHES), CUTS))
    with (
        serving(tmp_path / "store", access_log="none") as first,
        proxied(first.address) as proxy,
        kind(proxy.address, account="acme") as client,
    ):
        client.ensure_account()
        client.ensure_input("shop", "web")
        with client.event_stream(input="shop/web", unacknowledged_max=4) as stream:
            for number in range(SECOND_SERVICE_AT):
                stream.send(events(f"u{number}", f"v{number}"))
                if number in cuts:
                    proxy.cut()
            # The service ends while batches are on their way, and starts again elsewhere.
            first.application.stop()
            with serving(tmp_path / "store", access_log="none") as second:
                proxy.target = second.address
                proxy.cut()
                for number in range(SECOND_SERVICE_AT, BATCHES):
                    stream.send(events(f"u{number}", f"v{number}"))
                    if number in cuts:
                        proxy.cut()
                sent = stream.flush()
                assert (sent.accepted, sent.duplicates, sent.rejected) == (2 * BATCHES, 0, 0)
                assert proxy.accepted > 2
                [name] = client.list_event_names()
                assert (name.events, name.users) == (2 * BATCHES, 2 * BATCHES)


def test_a_stream_that_the_service_ended_for_being_idle_goes_on(kind: Kind, tmp_path: Path) -> None:
    with (
        serving(tmp_path / "store", access_log="none", stream_idle_s=0.2) as service,
        kind(service.address, account="acme") as client,
    ):
        client.ensure_account()
        client.ensure_input("shop", "web")
        with client.event_stream(input="shop/web") as stream:
            for number in range(3):
                stream.send(events(f"u{number}"))
                stream.flush()
                # Until the call has ended, without a look at its end.
                eventually(lambda: service.application.in_flight == 0)
        assert stream.sent.accepted == 3


def test_sending_waits_while_too_many_batches_are_on_their_way(kind: Kind) -> None:
    release = threading.Event()

    def slow(requests: Iterator[StreamEventsRequest]) -> Iterator[StreamEventsResponse]:
        for request in requests:
            release.wait(30)
            yield accepted(request)

    fake = Fake({"StreamEvents": slow})
    with fake_serving(fake) as target, kind(target, account="acme") as client:
        stream = client.event_stream(batch_rows=1, unacknowledged_max=3)
        sender = threading.Thread(target=stream.send, args=(events("a", "b", "c", "d"),))
        sender.start()
        eventually(lambda: stream.unacknowledged == 3 and len(fake.requests) == 1)
        assert sender.is_alive()
        release.set()
        sender.join(30)
        assert stream.flush().accepted == 4
        assert stream.sent.revision.endswith("-3")


@pytest.mark.parametrize("end", [DOWN, LIMITED], ids=["down", "limited"])
def test_only_what_is_not_acknowledged_is_sent_again_under_the_same_ids(kind: Kind, end: Refusal) -> None:
    calls: list[list[str]] = []

    def broken(requests: Iterator[StreamEventsRequest]) -> Iterator[StreamEventsResponse]:
        calls.append([])
        for request in requests:
            calls[-1].append(request.batch.request_id)
            if len(calls) < 3 and len(calls[-1]) == 2:
                raise end
            yield accepted(request)

    with fake_serving(Fake({"StreamEvents": broken})) as target, kind(target, account="acme") as client:
        batches = [events("a"), events("b"), events("c")]
        answers = list(client.stream_events(batches, request_id="r", first_sequence=5))
    assert [answer.sequence for answer in answers] == [5, 6, 7]
    assert calls == [["r-5", "r-6"], ["r-6", "r-7"], ["r-7"]]


def test_a_refused_batch_does_not_hold_up_the_others(kind: Kind) -> None:
    def refuse_b(requests: Iterator[StreamEventsRequest]) -> Iterator[StreamEventsResponse]:
        for request in requests:
            if request.batch.events[0].user_id == "b":
                raise Refusal(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    "nothing could be taken",
                    reason="BATCH_REFUSED",
                    violations=[("events[0].user_id", "must not be b")],
                )
            yield accepted(request)

    with (
        fake_serving(Fake({"StreamEvents": refuse_b})) as target,
        kind(target, account="acme") as client,
        client.event_stream(batch_rows=1) as stream,
    ):
        stream.send(events("a", "b", "c"))
    assert (stream.sent.accepted, stream.sent.rejected) == (2, 1)
    assert [(each.index, each.description) for each in stream.sent.rejections] == [(1, "must not be b")]


@pytest.mark.parametrize("answered", [0, 1])
def test_an_error_that_does_not_pass_is_raised(kind: Kind, answered: int) -> None:
    def refuse(requests: Iterator[StreamEventsRequest]) -> Iterator[StreamEventsResponse]:
        for number, request in enumerate(requests):
            if number == answered:
                raise Refusal(grpc.StatusCode.NOT_FOUND, "no such input")
            yield accepted(request)

    with fake_serving(Fake({"StreamEvents": refuse})) as target, kind(target, account="acme") as client:
        with pytest.raises(errors.NotFound), client.event_stream(batch_rows=1) as stream:
            stream.send(events("a", "b"))
        assert stream.sent.accepted == answered


def test_a_service_that_stays_away_is_an_error_in_the_end(kind: Kind) -> None:
    def down(requests: Iterator[Any]) -> Iterator[Any]:
        yield from ()
        raise DOWN

    with fake_serving(Fake({"StreamEvents": down})) as target, kind(target, account="acme") as client:
        with pytest.raises(errors.Unavailable), client.event_stream() as stream:
            stream.send(events("a"))
        assert stream.unacknowledged == 1


def test_a_stream_that_is_left_by_an_exception_is_not_flushed(kind: Kind) -> None:
    held = threading.Event()

    def hold(requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            held.wait(30)
            yield accepted(request)

    with fake_serving(Fake({"StreamEvents": hold})) as target, kind(target, account="acme") as client:
        stream = client.event_stream()

        def leave() -> None:
            with stream:
                stream.send(events("a"))
                raise KeyError

        with pytest.raises(KeyError):
            leave()
        held.set()
        assert stream.sent.rows == 0


def test_a_window_without_room_is_refused(kind: Kind) -> None:
    with kind("127.0.0.1:1", account="acme") as client, pytest.raises(ValueError, match="at least one"):
        client.event_stream(unacknowledged_max=0)
