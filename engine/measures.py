"""What a running engine and its store count and time about themselves, for monitoring.

The parts count with `Counter` and `Durations`, and hand out `Measure`s when asked. A program that embeds the
engine turns those into the form of a monitoring system; the service makes Prometheus metrics of them.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import msgspec

DURATION_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the classes that durations are counted in, in seconds; there is one more class above."""


class Counter:
    """A number that only grows. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self, amount: int = 1) -> None:
        """Counts."""
        with self._lock:
            self.value += amount


class Durations:
    """How often something happened and how long it took. Safe to use from several threads."""

    def __init__(self, bounds_s: tuple[float, ...] = DURATION_BOUNDS_S) -> None:
        self._bounds_s = bounds_s
        self._lock = threading.Lock()
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one occurrence."""
        at = bisect_left(self._bounds_s, seconds)
        with self._lock:
            self._counts[at] += 1
            self._sum_s += seconds

    def add_counts(self, more: DurationCounts) -> None:
        """Counts what another process counted, by the same bounds."""
        with self._lock:
            self._counts = [own + others for own, others in zip(self._counts, more.counts, strict=True)]
            self._sum_s += more.sum_s

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts the block with the time it takes, also when it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(time.monotonic() - began)

    def read(self) -> DurationCounts:
        """All counts of one moment."""
        with self._lock:
            return DurationCounts(self._bounds_s, tuple(self._counts), self._sum_s)

    def take(self) -> DurationCounts:
        """All counts since the last time that they were taken."""
        with self._lock:
            taken = DurationCounts(self._bounds_s, tuple(self._counts), self._sum_s)
            self._counts = [0] * len(self._counts)
            self._sum_s = 0.0
        return taken


class DurationCounts(msgspec.Struct, frozen=True):
    """The number of durations up to each of the bounds and above the one before it, those above all, and the
    sum in seconds.
    """

    bounds_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float

    @property
    def total(self) -> int:
        """The number of all durations."""
        return sum(self.counts)


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. The unit is the end of the name. Several may have one name and help, and differ in labels;
    labels have few values, and none of them is an id of a user.
    """

    name: str
    help: str
    kind: Literal["counter", "gauge", "durations"]
    value: float | DurationCounts
    labels: Mapping[str, str] = {}


def counted(name: str, help_text: str, counter: Counter, **labels: str) -> Measure:
    """The measure of a counter."""
    return Measure(name=name, help=help_text, kind="counter", value=counter.value, labels=labels)


def gauge(name: str, help_text: str, value: float, **labels: str) -> Measure:
    """The measure of something that goes up and down."""
    return Measure(name=name, help=help_text, kind="gauge", value=value, labels=labels)


def timed(name: str, help_text: str, durations: Durations, **labels: str) -> Measure:
    """The measure of durations."""
    return Measure(name=name, help=help_text, kind="durations", value=durations.read(), labels=labels)
