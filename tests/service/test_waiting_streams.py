"""Streams hold no thread while they wait, whatever their callers do, and end as others do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from milepost.v1.audience_service_pb2 import WatchMembershipResponse
from service.deaf_callers import DeafCallers
from service.waiting import Waiting
from service.waiting_streams import STREAM_THREADS, StreamWorkers
from service.workers import Workers
from tests.harness import Serving, eventually, read_refusal, serving
from tests.service.delivery.test_delivery import build, connect, get, set_tier, wait_for
from tests.service.test_watch import request_of, told, until_mark

WATCHERS = 150


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Serving, str]]:
    """A service with a calculated audience of u1, u2 and u3."""
    limits = {"watchers_max": WATCHERS, "connection_calls_max": 2 * WATCHERS}
    with serving(tmp_path / "store", access_log="none", readers=0, **limits) as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        yield service, audience


def threads() -> int:
    """Threads that serve watchers."""
    return sum(thread.name == "watcher" for thread in threading.enumerate())


def next_changes(stream: Iterator[WatchMembershipResponse]) -> list[tuple[str, bool, int]]:
    return next(told(item) for item in stream if item.WhichOneof("update") == "changes")


def test_watchers_wait_without_threads_and_all_hear_of_a_change(watched: tuple[Serving, str]) -> None:
    service, audience = watched
    streams = [
        service.audiences.WatchMembership(request_of(audience, snapshot=True)) for _ in range(WATCHERS)
    ]
    for stream in streams:
        assert until_mark(stream)[1] == 3
    assert threads() <= STREAM_THREADS
    set_tier(service, ["u4"], "gold")
    assert [next_changes(stream) for stream in streams] == [[("u4", True, 4)]] * WATCHERS
    for stream in streams:
        stream.cancel()
    eventually(lambda: service.application.in_flight == 0)


def test_callers_that_do_not_read_hold_up_no_others(tmp_path: Path) -> None:
    """There are more of them than threads. The next test has how such a caller is cut off."""
    with serving(tmp_path / "store", access_log="none", readers=0) as service:
        audience = build(service)
        users = [f"{number:0>200}" for number in range(3_000)]
        set_tier(service, users, "gold")
        connect(service, audience)
        eventually(lambda: get(service).delivered_sequence == 3_003)
        options = [("grpc.http2.lookahead_bytes", 1), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(service.address, options) as channel:
            stub = type(service.audiences)(channel)
            deaf = [stub.WatchMembership(request_of(audience, snapshot=True)) for _ in range(8)]
            assert len(deaf) > STREAM_THREADS
            for _ in range(3):
                stream = service.audiences.WatchMembership(request_of(audience, snapshot=True))
                items, cursor = until_mark(stream)
                assert (cursor, sum(len(item.snapshot.user_ids) for item in items)) == (3_003, 3_003)
                stream.cancel()


class Breaking:
    """A context of gRPC that notes with what its call is broken off."""

    def __init__(self) -> None:
        self._rpc_event = self.call = self
        self.ended: list[tuple[object, ...]] = []

    def cancel(self, *status: object) -> None:
        self.ended.append(status)


def test_a_caller_that_does_not_read_is_cut_off_so_that_it_tries_again() -> None:
    """One that reads, or whose stream waits, is not."""
    deaf_callers, context = DeafCallers(0.0), Breaking()
    sent = deaf_callers.sent(iter(["an answer", Waiting(0.0), "another"]), "watch", cast(Any, context))
    assert next(sent) == "an answer"
    deaf_callers._turn()
    assert context.ended == [
        (cygrpc.StatusCode.unavailable, "the caller did not read for 0 seconds: read on, or resume")
    ]
    assert next(sent) == Waiting(0.0)
    deaf_callers._turn()
    assert len(context.ended) == 1


def test_a_release_of_grpc_with_other_parts_gives_each_stream_a_thread(
    watched: tuple[Serving, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, audience = watched
    monkeypatch.setattr(StreamWorkers, "_run", Workers._run)
    streams = [service.audiences.WatchMembership(request_of(audience, snapshot=True)) for _ in range(6)]
    for stream in streams:
        assert until_mark(stream)[1] == 3
    assert threads() == 6
    set_tier(service, ["u4"], "gold")
    assert [next_changes(stream) for stream in streams] == [[("u4", True, 4)]] * 6
    service.application.stop()
    with pytest.raises(grpc.RpcError) as ended:
        list(streams[0])
    assert read_refusal(ended.value).reason == "STORE_UNAVAILABLE"
