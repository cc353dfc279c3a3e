"""Measured times of exact answers: a question once found to fit its budget stays exact.

The sample size follows from a cost estimate (`Outlook.work`) that ignores caches and the machine. When an
exact answer fits a budget that its estimate exceeds, its time is stored in a document of the account before
the first answer that relies on it, so that it survives a restart.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from engine.backends.base import Documents

MEASURED_MAX = 1_024
"""Questions per account whose times are kept; the oldest are dropped first."""

GROWTH_MAX = 1.25
"""A measured time expires when the estimate has grown by more than this factor."""

_PREFIX = "estimates/"


class _Measured(msgspec.Struct, array_like=True):
    """A question, its estimated and its measured time, both in microseconds."""

    question: bytes
    work: float
    micros: float


class MeasuredTimes:
    """Measured times of all accounts. Safe to call from several threads."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._lock = threading.Lock()
        self._loaded: dict[str, dict[bytes, _Measured]] = {}

    def find(self, account: str, name: Callable[[], bytes], work: float) -> float | None:
        """The measured microseconds of the exact answer; None when unknown or when the estimate has changed
        too much. `name` returns the question's name and is called only when needed.
        """
        with self._lock:
            times = self._of(account)
        if not times:
            return None
        found = times.get(name())
        return found.micros if found is not None and work <= found.work * GROWTH_MAX else None

    def keep(self, account: str, question: bytes, work: float, micros: float) -> None:
        """Stores a time, durable on return; of two for about the same work the shorter. Raises LimitExceeded
        when the store is full.
        """
        with self._lock:
            times = self._of(account)
            before = times.get(question)
            if before is not None and work <= before.work * GROWTH_MAX and before.micros <= micros:
                return
            changed = {name: time for name, time in times.items() if name != question}
            changed[question] = _Measured(question, work, micros)
            while len(changed) > MEASURED_MAX:
                del changed[next(iter(changed))]
            encoded = msgspec.msgpack.encode(list(changed.values()))
            self._documents.commit({_PREFIX + account: encoded})
            self._loaded[account] = changed

    def forget(self, account: str) -> None:
        """Removes the times of a deleted account."""
        with self._lock:
            self._loaded.pop(account, None)
            self._documents.commit({}, [_PREFIX + account])

    def _of(self, account: str) -> dict[bytes, _Measured]:
        found = self._loaded.get(account)
        if found is None:
            document = self._documents.get(_PREFIX + account)
            times = [] if document is None else msgspec.msgpack.decode(document, type=list[_Measured])
            found = self._loaded[account] = {time.question: time for time in times}
        return found
