"""Measures the rounds of live refresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.audiences.live.state import JourneyStates
from engine.clock import Clock
from engine.measures import Counter, Durations, Measure, counted, gauge, timed
from engine.stalls import StallLog
from engine.values import MICROS_PER_SECOND

REST_S_MIN = 0.02
REST_S_MAX = 0.1

STALL_S = 10.0
"""A round that takes this long is logged."""

ASIDE_STALL_S = 60.0
"""A round of one account that is refreshed aside is logged when it takes this long."""

_log = logging.getLogger(__name__)
_stalls = StallLog(logging.getLogger(__name__), "refreshing audiences", STALL_S)


def rest_after(processor_s: float) -> float:
    """The pause in seconds after a round that took so much processor time: as long, within bounds. The longer
    a round takes, the more events the next one is about, and the less of the interpreter the rounds take from
    the calls. One that took long because it let calls go first, again and again, has left them enough: it is
    not followed by a longer pause.
    """
    return min(max(processor_s, REST_S_MIN), REST_S_MAX)


class Rounds:
    """Counts and times of rounds over all journeys, and how far they are behind."""

    def __init__(self, states: JourneyStates, clock: Clock, accounts_aside: Callable[[], int]) -> None:
        self._states = states
        self._clock = clock
        self._accounts_aside = accounts_aside
        self._durations = Durations()
        self.failures = Counter()

    @contextmanager
    def timed(self) -> Iterator[None]:
        """A round is the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._durations.add(seconds)
            _stalls.report(seconds)

    @contextmanager
    def timed_aside(self, account: str) -> Iterator[None]:
        """A round over an account that is refreshed aside is the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            if seconds >= ASIDE_STALL_S:
                facts = {"account": account, "seconds": round(seconds, 3)}
                _log.warning("an account takes long to refresh", extra=facts)

    def measures(self) -> Iterator[Measure]:
        """All figures of this moment."""
        now, instants = self._clock(), [state.as_of for state in self._states.snapshot()]
        lags = [max(0, now - instant) / MICROS_PER_SECOND for instant in instants if instant]
        yield timed("refresh_seconds", "Duration of refreshes of all activated audiences.", self._durations)
        yield counted("refresh_failures_total", "Journeys that a refresh failed for.", self.failures)
        yield gauge(
            "refresh_lag_seconds",
            "Time since the last refresh of the journey that is furthest behind.",
            max(lags, default=0.0),
        )
        yield gauge(
            "accounts_refreshed_aside",
            "Accounts whose audiences take so long to refresh that they are refreshed apart from others.",
            self._accounts_aside(),
        )
        yield gauge("journeys_live", "Journeys whose audiences are refreshed.", len(instants))
        yield gauge(
            "journeys_calculating",
            "Journeys whose audiences are calculated for the first time since the start.",
            len(instants) - len(lags),
        )
