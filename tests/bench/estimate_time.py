"""How long an estimate of the deepest milestone of the sample journey takes."""

from __future__ import annotations

import time

from milepost.sample.journey import JOURNEY_ID, SPENT_ID
from tests.bench.figures import Figure, Subject, quantile

CALLS = 500


def measure(subject: Subject) -> list[Figure]:
    """Milliseconds of one call after another, each at its own instant: as the caller sees it, and inside."""
    name = f"{JOURNEY_ID}/{SPENT_ID}"
    first = _call(subject, name)
    calls = [_call(subject, name) for _ in range(CALLS)]
    seen, inside = (sorted(call[index] for call in calls) for index in (0, 1))
    return [
        Figure("estimate, first", first[0], "ms", first[1], "in the engine"),
        Figure("estimate, p50", quantile(seen, 0.5), "ms", quantile(inside, 0.5), "in the engine"),
        Figure("estimate, p99", quantile(seen, 0.99), "ms", quantile(inside, 0.99), "in the engine"),
    ]


def _call(subject: Subject, name: str) -> tuple[float, float]:
    started = time.perf_counter()
    answer = subject.client.estimate(name)
    seen_ms = (time.perf_counter() - started) * 1_000
    return seen_ms, answer.evaluation.elapsed.ToMicroseconds() / 1_000
