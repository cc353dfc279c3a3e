"""How many CheckMembership calls a second are answered, beside an empty handler on the same server stack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from milepost.sample import dataset
from milepost.sample.journey import JOURNEY_ID, SPENT_ID
from tests.bench.callers import PROCESSES, THREADS, WARM_UP_CALLS, Calls, call_for
from tests.bench.figures import Figure, Subject
from tests.bench.process import cpu_seconds

SECONDS = 5.0
STOP_SECONDS_MAX = 10.0
MICROS_A_SECOND = 1_000_000


def measure(subject: Subject) -> list[Figure]:
    """Calls a second of one user each, evaluated for that user; then the same calls to the empty handler."""
    audience = subject.client.audience_name(f"{JOURNEY_ID}/{SPENT_ID}")
    users = [row[dataset.USER_ID] for row in dataset.panel()]
    ours, our_cpu = _measured(subject.service.pid, subject.service.target, audience, users)
    with empty_handler() as (pid, target):
        empty, empty_cpu = _measured(pid, target, audience, users)
    return [
        Figure("CheckMembership, rate", ours.per_second, "calls/s", empty.per_second, "empty handler"),
        _latency("CheckMembership, p50", ours, empty, 0.5),
        _latency("CheckMembership, p99", ours, empty, 0.99),
        Figure("CheckMembership, CPU", our_cpu, "µs/call", empty_cpu, "empty handler"),
    ]


def _measured(pid: int, target: str, audience: str, users: Sequence[str]) -> tuple[Calls, float]:
    """The calls, and the processor time of the server, in microseconds a call."""
    before = cpu_seconds(pid)
    calls = call_for(SECONDS, target, audience, users)
    answered = len(calls.ordered_seconds) + WARM_UP_CALLS * PROCESSES * THREADS
    return calls, (cpu_seconds(pid) - before) / answered * MICROS_A_SECOND


def _latency(what: str, ours: Calls, empty: Calls, share: float) -> Figure:
    return Figure(what, ours.quantile_ms(share), "ms", empty.quantile_ms(share), "empty handler")


@contextmanager
def empty_handler() -> Iterator[tuple[int, str]]:
    """Process id and address of a server that does nothing, in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.empty_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield child.pid, child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(STOP_SECONDS_MAX)
