"""A caller's connection carries a limited number of calls at a time; one inside the service carries any."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from milepost.cli.serve import service_command
from milepost.v1.account_service_pb2 import ListAccountsRequest
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from service.limits import CONNECTION_CALLS_MAX
from tests.bench.process import children_of, status_bytes
from tests.connect_channel import ConnectChannel
from tests.harness import CALL_TIMEOUT_S, Serving, Stubs, eventually, serving
from tests.raw_http2 import MAX_CONCURRENT_STREAMS, RawCaller
from tests.service.delivery.test_delivery import build, connect, wait_for
from tests.service.test_watch import request_of, until_mark

METHOD = "/milepost.v1.AudienceService/CheckMembership"
CONNECTIONS = 30
"""More than gRPC has room for in the queue of a method."""
ROUNDS = 5
STREAMS = 1_000
"""Calls of a round, each opened and reset at once."""
MEMORY_BYTES_MAX = 100 << 20
"""What they may add to the memory of the service."""
LOG_BYTES_MAX = 1 << 16
"""What they may add to the log: a line for each would be a hundred times as much."""
FEW_CALLS = 100
"""The limit for a service that callers can reach who are not trusted."""
WATCHERS = 8
HOST = "127.0.0.1"


@pytest.fixture(params=[0, 1], ids=["alone", "reader"])
def readers(request: pytest.FixtureRequest) -> Any:
    """Readers of the service."""
    return request.param


def announced(directory: Path, **settings: int) -> int:
    """The limit in the settings of HTTP/2 that a service sends."""
    with serving(directory, **settings) as service, closing(RawCaller(service.application.port)) as caller:
        return caller.settings[MAX_CONCURRENT_STREAMS]


def test_the_limit_is_announced(tmp_path: Path, readers: int) -> None:
    assert announced(tmp_path / "set", readers=readers, connection_calls_max=7) == 7


def test_there_is_a_limit_by_default(tmp_path: Path) -> None:
    assert announced(tmp_path / "store", readers=0) == CONNECTION_CALLS_MAX


@contextmanager
def service_process(directory: Path, readers: int) -> Iterator[tuple[int, int]]:
    """A service in a process of its own: process id and port. It logs to the file `log`."""
    file = directory / "port"
    where = ("--port=0", "--port-file", str(file), "--data-dir", str(directory / "store"))
    limits = (f"--readers={readers}", f"--connection-calls-max={FEW_CALLS}")
    with (
        (directory / "log").open("w") as log,
        Popen([*service_command(), *where, *limits], stdout=DEVNULL, stderr=log) as child,
    ):
        try:
            yield child.pid, int(eventually(lambda: file.exists() and file.read_text().strip()))
        finally:
            child.terminate()


def memory_of(pid: int) -> int:
    """Peak of the resident memory of a process and its children, in bytes."""
    return sum(status_bytes(each, "VmHWM") for each in (pid, *children_of(pid)))


def reset_calls(port: int) -> int:
    """Opens and resets calls without a pause, and counts those that were refused."""
    with closing(RawCaller(port)) as caller:
        for _ in range(ROUNDS):
            caller.reset_streams(METHOD, STREAMS)
        return caller.count_refused()


def test_calls_that_are_reset_hold_up_no_others(tmp_path: Path, readers: int) -> None:
    """1. Callers without a key open and reset calls by the thousand, over several connections.
    2. Meanwhile the calls of another caller are all answered.
    3. gRPC has refused most of what was reset: they cost no thread, little memory, and no line each.
    """
    with service_process(tmp_path, readers) as (pid, port), closing(Stubs(f"{HOST}:{port}")) as beside:
        health: Any = health_pb2_grpc.HealthStub(beside.channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
        before = memory_of(pid)
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            attacks = [threads.submit(reset_calls, port) for _ in range(CONNECTIONS)]
            answered = 0
            while not answered or not all(each.done() for each in attacks):
                health.Check(health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S)
                beside.accounts.ListAccounts(ListAccountsRequest(), timeout=CALL_TIMEOUT_S)
                answered += 1
        assert sum(each.result() for each in attacks) > CONNECTIONS * ROUNDS * STREAMS / 2
        assert memory_of(pid) - before < MEMORY_BYTES_MAX
    assert (tmp_path / "log").stat().st_size < LOG_BYTES_MAX


@contextmanager
def watched(directory: Path, **settings: Any) -> Iterator[tuple[Serving, str]]:
    """A service whose callers have one call at a time on a connection, and an audience of three users."""
    with serving(directory, access_log="none", connection_calls_max=1, **settings) as service:
        audience = build(service)
        connect(service, audience)
        wait_for(service, 3)
        yield service, audience


def test_callers_through_a_reader_share_no_limit(tmp_path: Path) -> None:
    with watched(tmp_path / "store", readers=1) as (service, audience):
        callers = [Stubs(service.address) for _ in range(WATCHERS)]
        streams = [each.audiences.WatchMembership(request_of(audience, snapshot=True)) for each in callers]
        for stream in streams:
            assert until_mark(stream)[1] == 3
        for caller in callers:
            caller.close()


def test_callers_over_http_share_no_limit(tmp_path: Path, readers: int) -> None:
    with watched(tmp_path / "store", readers=readers, http_port=0) as (service, audience):
        address = service.application.http_address
        assert address is not None
        channel: Any = ConnectChannel(address)
        stub: Any = AudienceServiceStub(channel)
        asked = request_of(audience, snapshot=True)
        streams = [stub.WatchMembership(asked, timeout=CALL_TIMEOUT_S) for _ in range(WATCHERS)]
        for stream in streams:
            assert until_mark(stream)[1] == 3
        for stream in streams:
            stream.cancel()
