"""Measured times of exact answers, so that a question that was once found to fit its budget stays exact.

How large a sample is read is decided from a reckoning (`Outlook.work`), which knows no caches and no machine.
Where an exact answer turned out to fit although the reckoning says it would not, its time is kept here, in a
document of the account's, before the first answer is given that rests on it: a restart forgets nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from engine.backends.base import Documents

MEASURED_MAX = 1_024
"""Questions of an account whose times are kept; the oldest go first."""

GROWTH_MAX = 1.25
"""A time no longer holds when the reckoning says that the work has grown by more than this."""

_PREFIX = "estimates/"


class _Measured(msgspec.Struct, array_like=True):
    """A question, the work it was reckoned to be, and the microseconds that it took."""

    question: bytes
    work: float
    micros: float


class MeasuredTimes:
    """The times of every account. Safe to call from several threads."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._lock = threading.Lock()
        self._loaded: dict[str, dict[bytes, _Measured]] = {}

    def find(self, account: str, name: Callable[[], bytes], work: float) -> float | None:
        """The microseconds that the exact answer takes, if they are known and the work is still about the
        same. `name` makes the question's name, where it is needed.
        """
        with self._lock:
            times = self._of(account)
        if not times:
            return None
        found = times.get(name())
        return found.micros if found is not None and work <= found.work * GROWTH_MAX else None

    def keep(self, account: str, question: bytes, work: float, micros: float) -> None:
        """Keeps a time, durably on return; of two for about the same work the shorter. Raises LimitExceeded
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

    def _of(self, account: str) -> dict[bytes, _Measured]:
        found = self._loaded.get(account)
        if found is None:
            document = self._documents.get(_PREFIX + account)
            times = [] if document is None else msgspec.msgpack.decode(document, type=list[_Measured])
            found = self._loaded[account] = {time.question: time for time in times}
        return found
