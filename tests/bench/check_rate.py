"""How many CheckMembership calls a second are answered, beside an empty handler on the same server stack."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from milepost.sample import dataset
from milepost.sample.journey import JOURNEY_ID, SPENT_ID
from tests.bench.callers import Calls, call_for
from tests.bench.figures import Figure, Subject

SECONDS = 5.0
STOP_SECONDS_MAX = 10.0


def measure(subject: Subject) -> list[Figure]:
    """Calls a second of one user each, evaluated for that user; then the same calls to the empty handler."""
    audience = subject.client.audience_name(f"{JOURNEY_ID}/{SPENT_ID}")
    users = [row[dataset.USER_ID] for row in dataset.panel()]
    ours = call_for(SECONDS, subject.service.target, audience, users)
    with empty_handler() as target:
        empty = call_for(SECONDS, target, audience, users)
    return [
        Figure("CheckMembership, rate", ours.per_second, "calls/s", empty.per_second, "empty handler"),
        _latency("CheckMembership, p50", ours, empty, 0.5),
        _latency("CheckMembership, p99", ours, empty, 0.99),
    ]


def _latency(what: str, ours: Calls, empty: Calls, share: float) -> Figure:
    return Figure(what, ours.quantile_ms(share), "ms", empty.quantile_ms(share), "empty handler")


@contextmanager
def empty_handler() -> Iterator[str]:
    """The address of a server that does nothing, in a process of its own."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.empty_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait(STOP_SECONDS_MAX)
