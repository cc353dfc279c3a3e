"""The port of the metrics answers few at a time, and clients that say nothing leave no trace in the log."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.telemetry import endpoint
from service.telemetry.endpoint import MetricsEndpoint

WAIT_S = 30.0
SLOTS = 3


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetricsEndpoint]:
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.2)
    monkeypatch.setattr(endpoint, "CONNECTIONS_MAX", SLOTS)
    found = MetricsEndpoint(CollectorRegistry(), {"": True}.get, "127.0.0.1", 0)
    try:
        yield found
    finally:
        found.stop()


def connected(metrics: MetricsEndpoint) -> socket.socket:
    host, _, port = metrics.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S)


def health(metrics: MetricsEndpoint) -> int:
    with urllib.request.urlopen(f"http://{metrics.address}/health", timeout=WAIT_S) as answer:
        status: int = answer.status
    return status


def test_silent_and_broken_clients_leave_no_trace(
    metrics: MetricsEndpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logs:
        with closing(connected(metrics)) as silent, closing(connected(metrics)) as half:
            half.sendall(b"GET /metr")
            # The server hangs up.
            assert silent.recv(1) == b""
            assert half.recv(1) == b""
        assert health(metrics) == 200
    assert logs == []
    assert capfd.readouterr().err == ""


def test_a_defect_is_logged_as_such(metrics: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(endpoint._Handler, "handle", fail)
    with capture_logs() as logs, closing(connected(metrics)) as client:
        assert client.recv(1) == b""
    assert [(each["event"], each["log_level"]) for each in logs] == [("metrics not answered", "error")]


def test_more_connections_than_it_has_slots_for_are_ended(
    metrics: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint._Handler, "timeout", WAIT_S)
    with ExitStack() as open_:
        for _ in range(SLOTS):
            open_.enter_context(closing(connected(metrics)))
        with closing(connected(metrics)) as surplus:
            assert surplus.recv(1) == b""
    # Those that hung up have left their slots.
    for _ in range(1_000):
        try:
            assert health(metrics) == 200
        except OSError:
            continue
        return
    pytest.fail("no slot was left")
