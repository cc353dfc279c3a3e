"""Background threads: refresh of audiences, retention, write health and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from engine.audiences.live import Live
from engine.audiences.live.rounds import rest_after
from engine.clock import Clock
from engine.errors import LimitExceeded, MilepostError
from engine.retention import Retention
from service.repeating import Repeating

CLOCK_INTERVAL_S = 1.0
WRITES_INTERVAL_S = 0.5
ASIDE_WAIT_S = 1.0
"""How long one waits for an account that is to be refreshed aside, before it looks whether it is to stop."""
ASIDE_THREADS = 4
"""Accounts that are refreshed aside at once."""
FAILURE_WAIT_S = 5.0
"""Time until what failed is tried again: a journey's refresh, while others go on, or all of them."""

_logger = structlog.get_logger("milepost.refresh")
_clock_logger = structlog.get_logger("milepost.clock")
_write_logger = structlog.get_logger("milepost.writes")
_retention_logger = structlog.get_logger("milepost.retention")


class Refresher(Repeating):
    """Refreshes activated audiences after new data and as time passes, until stopped.

    A round begins as soon as something has changed, and after `interval_s` at the latest, since windows move
    without new data. A pause follows it (`rest_after`).
    """

    def __init__(self, live: Live, *, interval_s: float) -> None:
        super().__init__("refresher")
        self._live = live
        self._interval_s = interval_s

    def _wake(self) -> None:
        self._live.wake()

    def _turn(self) -> float:
        self._live.wait_for_work(self._interval_s)
        return 0.0 if self._stopping.is_set() else self._round()

    def _round(self) -> float:
        """Refreshes once and returns the pause in seconds."""
        began = time.thread_time()
        if not _goes_on(lambda: self._live.refresh_timely(retry_after_s=FAILURE_WAIT_S)):
            return FAILURE_WAIT_S
        return rest_after(time.thread_time() - began)


class AsideRefresher(Repeating):
    """Refreshes audiences of accounts that take too long for the common rounds, until stopped. Several of
    them take one account after the other.
    """

    def __init__(self, live: Live) -> None:
        super().__init__("aside")
        self._live = live

    def _turn(self) -> float:
        goes_on = _goes_on(lambda: self._live.refresh_aside(ASIDE_WAIT_S, retry_after_s=FAILURE_WAIT_S))
        return 0.0 if goes_on else FAILURE_WAIT_S


def _goes_on(refresh: Callable[[], Mapping[str, MilepostError]]) -> bool:
    """Refreshes, and returns whether the next refresh need not wait. Memberships that a refresh fails for are
    as they were.
    """
    try:
        failures = refresh()
    except Exception:
        _logger.exception("refresh failed")
        return False
    full = next((error for error in failures.values() if isinstance(error, LimitExceeded)), None)
    if full is not None:
        _logger.warning("refresh delayed: no space left", error=full.message)
    return full is None


class Retainer(Repeating):
    """Sweeps events beyond their account's retention, immediately and then every `interval_s`, until
    stopped.
    """

    def __init__(self, retention: Retention, *, interval_s: float) -> None:
        super().__init__("retainer")
        self._retention = retention
        self._interval_s = interval_s

    def _turn(self) -> float:
        try:
            self._retention.run()
        except Exception:
            # Safe to repeat: the next sweep finds the remaining events.
            _retention_logger.exception("retention sweep failed")
        return self._interval_s


class WriteWatch(Repeating):
    """Reports every `WRITES_INTERVAL_S` whether writes are accepted, and logs changes."""

    def __init__(self, fault: Callable[[], MilepostError | None], report: Callable[[bool], None]) -> None:
        super().__init__("writes")
        self._fault = fault
        self._report = report
        self._message = ""

    def _turn(self) -> float:
        fault = self._fault()
        message = "" if fault is None else fault.message
        if message != self._message:
            self._message = message
            if fault is None:
                _write_logger.warning("writes resumed")
            else:
                _write_logger.error("writes rejected", reason=fault.reason, error=message)
        self._report(fault is None)
        return WRITES_INTERVAL_S


class Timekeeper(Repeating):
    """Reads the clock every `CLOCK_INTERVAL_S`, so that a jump is noticed, and stores the time for the
    next start to compare with.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__("timekeeper")
        self._clock = clock

    def _turn(self) -> float:
        try:
            self._clock.keep()
        except LimitExceeded as error:
            _clock_logger.warning("clock not stored: no space left", error=error.message)
            return FAILURE_WAIT_S
        except Exception:
            # The next start compares with an older time, and may wait unnecessarily.
            _clock_logger.exception("storing the clock failed")
            return FAILURE_WAIT_S
        return CLOCK_INTERVAL_S
