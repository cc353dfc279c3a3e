"""A service that stops while callers hold idle streams open.

1. The service is a separate process with a grace period of ten minutes.
2. Callers keep streams open: one has sent batches and had them acknowledged, one has sent nothing at all,
   imports stand before and behind their header. None sends more, none says that it is done.
3. SIGTERM: every caller gets UNAVAILABLE, and the service ends with status 0.
4. Started again it has what was acknowledged, once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import ImportEventsRequest, IngestEventsRequest, StreamEventsRequest
from tests.arrow_requests import header
from tests.harness import ACCOUNT, EVENTUALLY_S, INPUT, Refusal, Stubs, read_refusal

BATCHES = 5
EVENTS = 40
"""Of a batch: enough to be taken by column."""
NEVER_CHECKPOINTS = ("--checkpoint-s", "100000", "--checkpoint-records", "100000000")
FLAGS = ("--stop-grace-s", "600", "--log-level", "error", *NEVER_CHECKPOINTS)


def batch(number: int) -> StreamEventsRequest:
    events = [Event(user_id=f"u{each}", name="open") for each in range(EVENTS)]
    for event in events:
        event.time.FromSeconds(1_750_000_000 + number)
    request = IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    return StreamEventsRequest(sequence=number, batch=request)


class Caller:
    """Sends these requests, then keeps the stream open without a word until `let_go` is set."""

    def __init__(self, method: Callable[..., Any], requests: list[Any], let_go: threading.Event) -> None:
        self._requests = requests
        self._let_go = let_go
        self.all_sent = threading.Event()
        self.call = method(self._sent(), timeout=EVENTUALLY_S)

    def _sent(self) -> Iterator[Any]:
        yield from self._requests
        self.all_sent.set()
        self._let_go.wait()

    def refusal(self) -> Refusal:
        """The final status of the call."""
        with pytest.raises(grpc.RpcError) as end:
            self.call.result() if isinstance(self.call, grpc.Future) else next(self.call)
        return read_refusal(end.value)


def test_idle_streams_do_not_keep_a_service_from_stopping(tmp_path: Path) -> None:
    store = tmp_path / "store"
    let_go = threading.Event()
    # 1.
    service = ServiceProcess(store, flags=FLAGS)
    with service:
        stubs = Stubs(service.target)
        stubs.create_inputs()
        # 2.
        stream, imports = stubs.ingest.StreamEvents, stubs.ingest.ImportEvents.future
        sent = Caller(stream, [batch(number) for number in range(BATCHES)], let_go)
        others = [
            Caller(stream, [], let_go),
            Caller(imports, [], let_go),
            Caller(imports, [ImportEventsRequest(header=header())], let_go),
        ]
        acknowledged = [next(sent.call) for _ in range(BATCHES)]
        assert [answer.result.accepted for answer in acknowledged] == [EVENTS] * BATCHES
        for caller in others:
            assert caller.all_sent.wait(EVENTUALLY_S)
        # 3.
        assert service.stop() == 0
        refusal = sent.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert "the service is stopping" in refusal.message
        assert {caller.refusal().code for caller in others} == {grpc.StatusCode.UNAVAILABLE}
        let_go.set()
        stubs.close()
    # 4.
    with ServiceProcess(store, flags=FLAGS) as again, Client(again.target, account="a") as client:
        assert client.admin.GetServerInfo(GetServerInfoRequest()).events == BATCHES * EVENTS
