"""A service in the process of a test, whose time can be moved.

The port, the threads and the handlers are those of any service. What follows the machine's monotonic clock
does not move with the time: deadlines and waits, retries and batches of deliveries, limits of keys.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Any

import structlog

from engine.clock import monotonic_micros, wall_micros
from engine.values import Micros
from service.application import Application, clock_of
from service.config import Config


class MovableTime:
    """The machine's time plus what it was moved by; or a time that stands still until it is moved."""

    def __init__(self, stands_at: Micros | None = None) -> None:
        self._lock = threading.Lock()
        self._stands_at = stands_at
        self._ahead: Micros = 0

    def wall(self) -> Micros:
        """The time of day."""
        with self._lock:
            return self._ahead + (wall_micros() if self._stands_at is None else self._stands_at)

    def monotonic(self) -> Micros:
        """A clock that moves by as much, so that the service sees time pass and no jump."""
        with self._lock:
            return self._ahead + (monotonic_micros() if self._stands_at is None else 0)

    def advance(self, length: Micros) -> None:
        """Moves the time ahead. Raises ValueError for a length below 0."""
        if length < 0:
            raise ValueError("time only moves ahead")
        with self._lock:
            self._ahead += length


class Embedded:
    """A service with these settings: those of `Config`, and those of the store."""

    def __init__(self, settings: Mapping[str, Any], time: MovableTime) -> None:
        _keep_log_short()
        own = {name: value for name, value in settings.items() if name in Config.__struct_fields__}
        of_the_store = {name: settings[name] for name in settings.keys() - own.keys()}
        self.config = Config(**{"port": 0, "readers": 0, **own}, store_settings=of_the_store)
        self.time = time
        self.application = Application(self.config, clock_of(self.config, time.wall, time.monotonic))
        self.application.start()

    def now(self) -> Micros:
        """The time that the service shows."""
        return self.application.engine.clock()

    def advance(self, length: Micros) -> None:
        """Moves the time ahead, and brings calculated audiences to it before it returns."""
        self.time.advance(length)
        self.application.engine.live.refresh_all()

    def stop(self) -> None:
        """Stops the service."""
        self.application.stop()


def _keep_log_short() -> None:
    """Warnings only, on the standard error, unless the process has set up its log."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.__stderr__),
        )
