"""How fast the sample is acknowledged, and how fast it is recognised when it is sent again."""

from __future__ import annotations

from milepost.sample.load import load
from tests.bench.figures import Figure, Subject


def measure(subject: Subject) -> list[Figure]:
    """Events a second, from the first request to the last acknowledgement, encoding included."""
    again = load(subject.client)
    return [
        Figure("load, new events", subject.loaded.events_per_second, "events/s"),
        Figure("load, all duplicates", again.events_per_second, "events/s"),
    ]
