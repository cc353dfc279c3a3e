"""CheckMembership calls per second, compared with an empty handler on the same server stack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from milepost.sample import dataset
from milepost.sample.journey import JOURNEY_ID, SPENT_ID
from service.readers.shared_port import SharedPort
from tests.bench.callers import PROCESSES, THREADS, WARM_UP_CALLS, Callers, Calls, Checks
from tests.bench.figures import Figure, Subject
from tests.bench.process import cpu_seconds

SECONDS = 5.0
STOP_SECONDS_MAX = 10.0
MICROS_A_SECOND = 1_000_000


def measure(subject: Subject) -> list[Figure]:
    """Calls a second of one user each, evaluated for that user; then the same calls to the empty handler."""
    audience = subject.client.audience_name(f"{JOURNEY_ID}/{SPENT_ID}")
    users = [row[dataset.USER_ID] for row in dataset.panel()]
    with Callers() as callers, empty_handler() as (pid, target):
        ours, our_cpu = _measured(
            callers, subject.service.pid, Checks(subject.service.target, audience, users)
        )
        empty, empty_cpu = _measured(callers, pid, Checks(target, audience, users))
    return [
        Figure("CheckMembership, rate", ours.per_second, "calls/s", empty.per_second, "empty handler"),
        _latency("CheckMembership, p50", ours, empty, 0.5),
        _latency("CheckMembership, p99", ours, empty, 0.99),
        Figure("CheckMembership, CPU", our_cpu, "µs/call", empty_cpu, "empty handler"),
    ]


def _measured(callers: Callers, pid: int, checks: Checks) -> tuple[Calls, float]:
    """The calls, and the processor time of the server, in microseconds a call."""
    before = cpu_seconds(pid)
    threads = PROCESSES * THREADS
    calls = callers.call_for(SECONDS, checks, threads)
    answered = len(calls.ordered_seconds) + WARM_UP_CALLS * threads
    return calls, (cpu_seconds(pid) - before) / answered * MICROS_A_SECOND


def _latency(what: str, ours: Calls, empty: Calls, share: float) -> Figure:
    return Figure(what, ours.quantile_ms(share), "ms", empty.quantile_ms(share), "empty handler")


@contextmanager
def empty_handlers(processes: int) -> Iterator[tuple[list[int], str]]:
    """Process ids of servers that do nothing and share a port, and their address."""
    with closing(SharedPort("127.0.0.1", 0)) as shared, ExitStack() as stack:
        started = [stack.enter_context(empty_handler(shared.port)) for _ in range(processes)]
        yield [pid for pid, _ in started], started[0][1]


@contextmanager
def empty_handler(shared_port: int = 0) -> Iterator[tuple[int, str]]:
    """Process id and address of a server that does nothing, in a separate process."""
    command = [sys.executable, "-m", "tests.bench.empty_server", str(shared_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            yield child.pid, child.stdout.readline().strip()
        finally:
            child.terminate()
            child.wait(STOP_SECONDS_MAX)
