"""Keeps a log readable when the same thing happens a thousand times a second."""

from __future__ import annotations

import threading
from typing import TypeAlias

import structlog

from service.repeating import Repeating

PERIOD_S = 10.0
"""Lines are counted, and those left out reported, once in this time."""
KINDS_MAX = 1_000
"""Kinds of line that are counted apart; further ones count together."""

Kind: TypeAlias = tuple[str, str, str]
"""Method, status code and reason of calls that are alike."""

_OTHERS: Kind = ("others", "", "")

_logger = structlog.get_logger("milepost.access")


class LineLimit:
    """Admits the first lines of each kind in a period, and counts the others. Safe to use from several
    threads.
    """

    def __init__(self, lines_max: int) -> None:
        """`lines_max` is for each kind and period; 0 for no limit."""
        self._lines_max = lines_max
        self._lock = threading.Lock()
        self._lines: dict[Kind, int] = {}

    def admits(self, kind: Kind) -> bool:
        """Whether a line is to be written."""
        if not self._lines_max:
            return True
        with self._lock:
            if kind not in self._lines and len(self._lines) >= KINDS_MAX:
                kind = _OTHERS
            lines = self._lines[kind] = self._lines.get(kind, 0) + 1
        return lines <= self._lines_max

    def begin_period(self) -> dict[Kind, int]:
        """Begins a new period. Returns how many lines of each kind the last one left out."""
        with self._lock:
            lines, self._lines = self._lines, {}
        return {kind: count - self._lines_max for kind, count in lines.items() if count > self._lines_max}


class LeftOutLog(Repeating):
    """Reports at the end of each period how many calls were not logged, until stopped, and then once more."""

    def __init__(self, limit: LineLimit) -> None:
        super().__init__("left-out")
        self._limit = limit

    def stop(self) -> None:
        """Stops the thread and reports what is left."""
        super().stop()
        self._turn()

    def _turn(self) -> float:
        for (method, code, reason), calls in self._limit.begin_period().items():
            _logger.warning("calls not logged", method=method, code=code, reason=reason, calls=calls)
        return PERIOD_S
