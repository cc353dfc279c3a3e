"""Calls that readers answer are counted with all others, each once."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from engine.measures import DurationCounts, Durations
from service.readers.checks import CHECK_METHOD
from service.readers.messages import Answered
from service.telemetry.application_metrics import ServiceMetrics
from tests.harness import eventually, serving
from tests.service.delivery.test_delivery import wait_for
from tests.service.readers.asking import build_split, check
from tests.service.telemetry.test_metrics import handled, read, value

CHECKS = 40


def test_checks_are_counted_once_whoever_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, DurationCounts]] = []
    add = ServiceMetrics.add_answered

    def noted(metrics: ServiceMetrics, method: str, calls: DurationCounts) -> None:
        reported.append((method, calls))
        add(metrics, method, calls)

    monkeypatch.setattr(ServiceMetrics, "add_answered", noted)
    with serving(tmp_path / "store", readers=1, metrics_port=0, access_log="none") as service:
        build_split(service)
        wait_for(service, 3, "gold")
        before = handled(read(service), "CheckMembership", "OK")
        for number in range(CHECKS):
            assert check(service, f"u{1 + number % 3}")
        eventually(lambda: handled(read(service), "CheckMembership", "OK") == before + CHECKS)
        samples = read(service)
        assert value(samples, "milepost_readers") == 1
        labels = {"grpc_method": "CheckMembership", "grpc_type": "unary"}
        assert value(samples, "grpc_server_handling_seconds_count", **labels) == before + CHECKS
        assert value(samples, "grpc_server_handling_seconds_bucket", le="+Inf", **labels) == before + CHECKS
        # The reader has answered some of them, most if not all.
        assert sum(calls.total for _, calls in reported) > 0
        assert {method for method, _ in reported} == {CHECK_METHOD}
        [pid] = service.application.reader_pids
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: value(read(service), "milepost_readers_replaced_total") == 1)
        eventually(lambda: service.application.reader_pids not in ([], [pid]))
        assert value(read(service), "milepost_readers") == 1


def test_counts_survive_the_way_to_the_writer() -> None:
    bounds = (0.001, 0.01)
    reader, writer = Durations(bounds), Durations(bounds)
    for seconds in (0.0005, 0.005, 0.005, 1.0):
        reader.add(seconds)
    sent = Answered("/m", reader.take())
    assert reader.read().total == 0
    received = Answered.of(sent.line())
    assert received == sent
    writer.add(0.01)
    writer.add_counts(received.calls)
    assert writer.read().counts == (1, 3, 1)
    assert round(writer.read().sum_s, 6) == 1.0205
