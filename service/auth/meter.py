"""How much an API key or an account calls: a token bucket for calls per second, a count of running calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service.auth.errors import RateLimited
from service.auth.running import Cell

IN_FLIGHT_RETRY_S = 0.1
"""When to try again after too many calls at the same time: nobody knows when one of them ends."""


class Meter:
    """The calls of one API key, or of all keys of an account. Safe to call from several threads."""

    def __init__(
        self,
        name: str,
        calls_per_second_max: int,
        in_flight_max: int,
        now: Callable[[], float] = time.monotonic,
        cell: Cell | None = None,
    ) -> None:
        """The bucket is full at first and holds the calls of one second. With a `cell` the calls that run in
        other processes count too.
        """
        self._cell = cell
        self._name = name
        self._lock = threading.Lock()
        self._now = now
        self._in_flight = 0
        self._tokens = float(calls_per_second_max)
        self._filled = now()
        self._rate, self._in_flight_max = calls_per_second_max, in_flight_max

    def limit(self, calls_per_second_max: int, in_flight_max: int) -> None:
        """Changes the limits. Running calls stay counted."""
        with self._lock:
            self._rate, self._in_flight_max = calls_per_second_max, in_flight_max

    def count_call(self) -> None:
        """Counts a call. Raises RateLimited when the bucket is empty."""
        with self._lock:
            now = self._now()
            filled = self._tokens + max(0.0, now - self._filled) * self._rate
            self._tokens, self._filled = min(float(self._rate), filled), now
            if self._tokens >= 1:
                self._tokens -= 1
                return
            retry_after_s = (1 - self._tokens) / self._rate
        raise RateLimited(
            f"{self._name} makes more than {self._rate:,} calls per second",
            resource=self._name,
            limit=self._rate,
            retry_after_s=retry_after_s,
        )

    def begin(self) -> None:
        """Counts a running call until `end`. Raises RateLimited when too many run."""
        with self._lock:
            self._in_flight += 1
            others = self._tell()
            if self._in_flight + others <= self._in_flight_max:
                return
            self._in_flight -= 1
            self._tell()
        raise RateLimited(
            f"{self._name} has {self._in_flight_max:,} calls running already",
            resource=self._name,
            limit=self._in_flight_max,
            retry_after_s=IN_FLIGHT_RETRY_S,
        )

    def end(self) -> None:
        """A running call ended."""
        with self._lock:
            self._in_flight -= 1
            self._tell()

    def _tell(self) -> int:
        """Tells the other processes, and returns how many calls run there."""
        cell = self._cell
        if cell is None:
            return 0
        cell.put(self._in_flight)
        return cell.others()


class Meters:
    """The meters that a caller counts on: its key's and its account's."""

    def __init__(self, *meters: Meter) -> None:
        self._meters = meters

    def count_call(self) -> None:
        """Counts a call. Raises RateLimited."""
        for meter in self._meters:
            meter.count_call()

    def begin(self) -> None:
        """Counts a running call on all meters until `end`, or on none. Raises RateLimited."""
        begun = 0
        try:
            for meter in self._meters:
                meter.begin()
                begun += 1
        except RateLimited:
            for meter in self._meters[:begun]:
                meter.end()
            raise

    def end(self) -> None:
        """A running call ended."""
        for meter in self._meters:
            meter.end()
