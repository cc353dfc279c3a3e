"""Log lines about work that takes unusually long, few enough to read."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_S = 10.0
"""Time between two lines about the same kind of work. The later line counts those left out."""


class StallLog:
    """Warns when one kind of work takes at least `limit_s`. Safe to use from several threads."""

    def __init__(self, logger: logging.Logger, what: str, limit_s: float) -> None:
        self._logger = logger
        self._what = what
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._quiet_until = 0.0
        self._left_out = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Reports the block, also when it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.report(time.monotonic() - began)

    def report(self, seconds: float) -> None:
        """Logs a time that is over the limit."""
        if seconds < self._limit_s:
            return
        now = time.monotonic()
        with self._lock:
            if now < self._quiet_until:
                self._left_out += 1
                return
            self._quiet_until = now + QUIET_S
            left_out, self._left_out = self._left_out, 0
        self._logger.warning(
            "stall", extra={"what": self._what, "seconds": round(seconds, 3), "not_logged": left_out}
        )
