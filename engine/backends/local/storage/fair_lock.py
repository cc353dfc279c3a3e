"""A lock that serves waiters in order of arrival, and short holders before patient ones.

`threading.Lock` may give the lock back at once to the thread that just released it. A writer that applies a
long batch in chunks would then starve every reader. This lock is handed to the longest waiting thread. A long
read, which holds the lock many times, waits *patiently*: others go first, up to a limit in a row.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from types import TracebackType

from engine.deadline import is_cancelled
from engine.measures import Durations
from engine.stalls import StallLog

STALL_S = 2.0
"""A wait from which a line is logged."""

_stalls = StallLog(logging.getLogger(__name__), "waiting for the lock of the store", STALL_S)

IN_A_ROW_MAX = 16
"""Holders that may go before a patient waiter."""

CANCELLED_POLL_SECONDS = 0.1
"""How often a waiting thread looks whether its caller has given up."""


class FairLock:
    """A reentrant lock, first come first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._patient: deque[threading.Lock] = deque()
        self._in_a_row = 0
        self._owner: int | None = None
        self._depth = 0
        self.waits = Durations()
        """How long threads waited that did not get the lock at once, patient ones apart."""

    @property
    def is_wanted(self) -> bool:
        """Whether a thread waits that is not patient."""
        return bool(self._waiting)

    @property
    def is_wanted_patiently(self) -> bool:
        """Whether a patient thread waits."""
        return bool(self._patient)

    def acquire(self, deadline: float | None = None, *, patient: bool = False) -> bool:
        """Acquires the lock. False: the deadline, a `time.monotonic()` instant, passed first, or the caller
        gave up (`engine.deadline`).
        """
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return True
        queue = self._patient if patient else self._waiting
        with self._mutex:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return True
            turn = threading.Lock()
            turn.acquire()
            queue.append(turn)
        began = time.monotonic()
        is_mine = self._wait(turn, queue, deadline)
        if not patient:
            seconds = time.monotonic() - began
            self.waits.add(seconds)
            _stalls.report(seconds)
        if is_mine:
            # The releasing thread left the lock taken for us.
            self._owner, self._depth = me, 1
            return True
        return False

    def _wait(self, turn: threading.Lock, queue: deque[threading.Lock], deadline: float | None) -> bool:
        if deadline is None:
            return turn.acquire()
        while True:
            remaining = deadline - time.monotonic()
            if turn.acquire(timeout=min(max(0.0, remaining), CANCELLED_POLL_SECONDS)):
                return True
            if remaining <= CANCELLED_POLL_SECONDS or is_cancelled(deadline):
                break
        with self._mutex:
            if turn in queue:
                queue.remove(turn)
                return False
        # The lock was handed over after the timeout.
        return turn.acquire()

    def release(self) -> None:
        """Releases the lock and hands it to the first waiter."""
        if self._owner != threading.get_ident():
            raise RuntimeError("the lock is released by a thread that does not hold it")
        self._depth -= 1
        if self._depth:
            return
        with self._mutex:
            queue = self._next_queue()
            if queue:
                self._owner = _HANDED_OVER
                queue.popleft().release()
            else:
                self._owner = None

    def _next_queue(self) -> deque[threading.Lock]:
        if self._waiting and (not self._patient or self._in_a_row < IN_A_ROW_MAX):
            self._in_a_row += 1
            return self._waiting
        self._in_a_row = 0
        return self._patient

    def yield_lock(self) -> None:
        """Lets all current waiters go first, if the lock is held only once."""
        if self._depth == 1 and (self._waiting or self._patient):
            self.release()
            self.acquire()

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_HANDED_OVER = -1
"""Not a thread id: the lock is being handed to a waiter."""
