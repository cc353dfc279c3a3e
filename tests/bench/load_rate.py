"""Acknowledged events per second for the sample, new and repeated."""

from __future__ import annotations

from milepost.sample import dataset
from milepost.sample.load import load
from tests.bench.figures import Figure, Subject
from tests.bench.process import cpu_seconds

MICROS_A_SECOND = 1_000_000


def measure(subject: Subject) -> list[Figure]:
    """Events a second, from the first request to the last acknowledgement, encoding included."""
    before = cpu_seconds(subject.service.pid)
    again = load(subject.client)
    again_cpu_seconds = cpu_seconds(subject.service.pid) - before
    return [
        Figure("load, new events", subject.loaded.events_per_second, "events/s"),
        _cpu("load, new events", subject.load_cpu_seconds),
        Figure("load, all sent before", again.events_per_second, "events/s"),
        _cpu("load, all sent before", again_cpu_seconds),
    ]


def _cpu(what: str, seconds: float) -> Figure:
    return Figure(f"{what}, CPU", seconds / dataset.EVENTS * MICROS_A_SECOND, "µs/event")
