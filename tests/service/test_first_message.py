"""Callers that open a call and send no message take no thread, and are refused in the end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from milepost.v1.account_service_pb2 import ListAccountsRequest
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest, StreamEventsRequest
from service import first_message
from service.convert.wire_elements import WireElements
from service.limits import CONNECTION_CALLS_MAX, PROBES_MAX
from service.methods import REFLECTION_METHODS, Kind, kind_of
from tests.harness import (
    ACCOUNT,
    EVENTUALLY_S,
    INPUT,
    Refusal,
    Serving,
    Stubs,
    eventually,
    read_refusal,
    serving,
)
from tests.service.auth.keyed import keyed
from tests.service.test_refusals import METHODS
from tests.walks import each_of

SERVING = health_pb2.HealthCheckResponse.SERVING
SILENT = 40
"""More than the threads of any kind."""
HOUR_S = 3_600.0
IDLE_S = 1.5
STREAM_EVENTS = "/milepost.v1.IngestService/StreamEvents"
STREAMS_OF_REQUESTS = [
    method for method, takes_many, _ in METHODS if takes_many and kind_of(method) is not Kind.PROBE
]
ONE_REQUEST = [method for method, takes_many, _ in METHODS if not takes_many]


class Silent:
    """Calls that say nothing, until let go. A connection carries no more of them than it may."""

    def __init__(self, service: Serving, method: str, calls: int) -> None:
        self._let_go = threading.Event()
        # On one connection the service takes calls in their order.
        further = range(0, calls, CONNECTION_CALLS_MAX) if calls > CONNECTION_CALLS_MAX // 2 else ()
        self._further = [Stubs(service.address) for _ in further]
        opened: list[Any] = [each.channel.stream_stream(method) for each in self._further or (service,)]
        self.calls = [
            opened[number // CONNECTION_CALLS_MAX](self._nothing(), timeout=EVENTUALLY_S)
            for number in range(calls)
        ]

    def _nothing(self) -> Iterator[bytes]:
        self._let_go.wait(EVENTUALLY_S)
        yield from ()

    def end(self) -> Refusal:
        """The end of all calls, which is the same for each."""
        ends = [end_of(call) for call in self.calls]
        self.close()
        assert ends == [ends[0]] * len(ends)
        return ends[0]

    def let_go(self) -> None:
        """Ends the calls without a message."""
        self._let_go.set()

    def close(self) -> None:
        """Ends its connections."""
        for each in self._further:
            each.close()


def end_of(call: Any) -> Refusal:
    with pytest.raises(grpc.RpcError) as end:
        list(call)
    return read_refusal(end.value)


def test_silent_calls_hold_no_thread_and_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "store", worker_threads=2, stream_idle_s=IDLE_S, access_log="none") as service:
        service.create_inputs()
        silent = Silent(service, "/milepost.v1.AccountService/ListAccounts", SILENT)
        eventually(lambda: service.application.in_flight == SILENT)
        assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
        # A call is in flight a little longer than until its answer is there.
        eventually(lambda: service.application.in_flight == SILENT)
        end = silent.end()
        assert (end.code, end.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
        eventually(lambda: service.application.in_flight == 0)
        assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
        silent.let_go()


@pytest.mark.parametrize(
    "method", ["/grpc.health.v1.Health/Check", "/milepost.v1.AccountService/ListAccounts"]
)
def test_silent_calls_without_a_key_give_way_to_others(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as their pool holds. Each further call ends the one that is silent for longest, and none whose
    message may be on its way.
    """
    with serving(tmp_path / "store", in_flight_max=SILENT, access_log="none") as service:
        service.create_inputs()
        health: Any = health_pb2_grpc.HealthStub(service.channel)
        pool = service.application._server._pools[kind_of(method)]
        monkeypatch.setattr(first_message, "SILENT_S_MIN", HOUR_S)
        silent = Silent(service, method, pool.in_flight_max)
        eventually(lambda: pool.in_flight == pool.in_flight_max)
        call: Any = service.channel.unary_stream(method)
        end = end_of(call(b""))
        assert (end.code, end.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert pool.refused.value == 1
        assert not any(call.done() for call in silent.calls)
        monkeypatch.setattr(first_message, "SILENT_S_MIN", 0.0)
        for _ in range(SILENT // 2):
            assert health.Check(health_pb2.HealthCheckRequest()).status == SERVING
            assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
        end = end_of(silent.calls[0])
        assert (end.code, end.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
        assert not all(call.done() for call in silent.calls)
        assert pool.refused.value == 1
        silent.let_go()


@pytest.mark.parametrize("method", STREAMS_OF_REQUESTS)
def test_silent_streams_without_a_key_give_way_to_others(tmp_path: Path, method: str) -> None:
    with serving(tmp_path / "store", streams_max=2, imports_max=2, access_log="none") as service:
        service.create_inputs()
        most = service.application._server._pools[kind_of(method)].in_flight_max
        silent = Silent(service, method, most)
        eventually(partial(is_answered, service, method))
        [gave_way] = [call for call in silent.calls if call.done()]
        end = end_of(gave_way)
        assert (end.code, end.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
        assert "while others called" in end.message
        silent.let_go()
        eventually(lambda: service.application.in_flight == 0)
        silent.close()
        assert not service.application._server._pools.silent_streams._streams


def is_answered(service: Serving, method: str) -> bool:
    """Whether a stream with one empty request is not refused for want of a slot."""
    call: Any = service.channel.stream_stream(method)
    end = end_of(call(iter([b""]), timeout=EVENTUALLY_S))
    assert end.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED), end
    return end.code is grpc.StatusCode.INVALID_ARGUMENT


def test_streams_that_are_in_use_do_not_give_way(tmp_path: Path) -> None:
    with serving(tmp_path / "store", streams_max=1, access_log="none") as service:
        service.create_inputs()
        sent: SimpleQueue[StreamEventsRequest | None] = SimpleQueue()
        answers = service.ingest.StreamEvents(iter(sent.get, None), timeout=EVENTUALLY_S)
        for number in range(8):
            visit = Event(user_id=f"u{number}", name="visit")
            visit.time.GetCurrentTime()
            batch = IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=[visit])
            sent.put(StreamEventsRequest(sequence=number, batch=batch))
            answer = next(answers)
            assert (answer.sequence, answer.result.accepted) == (number, 1)
            assert not is_answered(service, STREAM_EVENTS)
        sent.put(None)
        assert list(answers) == []


def test_silent_calls_without_a_key_give_way_to_callers_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probes need no key, and their pool is also that of reflection."""
    monkeypatch.setattr(first_message, "SILENT_S_MIN", 0.0)
    with keyed(tmp_path / "store") as keys:
        silent = Silent(keys.service, "/grpc.health.v1.Health/Check", PROBES_MAX + SILENT)
        for end in map(end_of, silent.calls[:SILENT]):
            assert (end.code, end.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
            assert "while others called" in end.message
        for _ in range(SILENT):
            assert keys.operator.accounts.ListAccounts(ListAccountsRequest()) is not None
            reflect: Any = keys.operator.channel.stream_stream(sorted(REFLECTION_METHODS)[0])
            assert list(reflect(iter([b""]), timeout=EVENTUALLY_S))
        silent.let_go()
        silent.close()


def test_no_message_is_parsed_in_the_thread_that_receives_for_all(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed_in: list[str] = []
    names = set()

    def are_too_many(*_: object) -> bool:
        parsed_in.append(threading.current_thread().name)
        return False

    monkeypatch.setattr(WireElements, "are_too_many", are_too_many)
    for method, takes_many, _ in METHODS:
        call: Any = service.channel.stream_stream(method)
        parsed_in.clear()
        requests = call(iter([b""]), timeout=EVENTUALLY_S)
        [thread] = eventually(parsed_in.copy)
        requests.cancel()
        assert "serve" not in thread, (method, takes_many)
        names.add(thread.partition("-")[0])
    assert names == {kind.value for kind in Kind}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("silent") / "store", access_log="none") as running:
        yield running


@each_of("method", ONE_REQUEST)
def test_a_call_that_ends_without_a_message_is_invalid(service: Serving, method: str) -> None:
    silent = Silent(service, method, 1)
    silent.let_go()
    end = silent.end()
    assert (end.code, end.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert end.violations.keys() == {"request"}


@pytest.mark.parametrize("method", {kind_of(method): method for method in ONE_REQUEST}.values())
def test_a_silent_call_that_is_cancelled_leaves_nothing(service: Serving, method: str) -> None:
    silent = Silent(service, method, 3)
    if kind_of(method) is not Kind.PROBE:
        eventually(lambda: service.application.in_flight == 3)
    for call in silent.calls:
        call.cancel()
    eventually(lambda: service.application.in_flight == 0)
    pools = service.application._server._pools
    eventually(lambda: not pools.first_messages._awaited)
    silent.let_go()
    silent.close()


def test_silent_calls_do_not_keep_a_service_from_stopping(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none", stop_grace_s=600.0) as service:
        silent = Silent(service, "/milepost.v1.AdminService/GetClock", 3)
        eventually(lambda: service.application.in_flight == 3)
        service.application.stop()
        end = silent.end()
        assert (end.code, end.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        silent.let_go()
