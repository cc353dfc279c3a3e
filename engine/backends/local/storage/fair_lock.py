"""A lock that serves waiters in order of arrival.

`threading.Lock` may give the lock back at once to the thread that just released it. A writer that applies a
long batch in chunks would then starve every reader. This lock is handed to the longest waiting thread.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType


class FairLock:
    """A reentrant lock, first come first served."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._owner: int | None = None
        self._depth = 0

    def acquire(self, deadline: float | None = None) -> bool:
        """Acquires the lock. False: the deadline, a `time.monotonic()` instant, passed first."""
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return True
        with self._mutex:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return True
            turn = threading.Lock()
            turn.acquire()
            self._waiting.append(turn)
        if self._wait(turn, deadline):
            # The releasing thread left the lock taken for us.
            self._owner, self._depth = me, 1
            return True
        return False

    def _wait(self, turn: threading.Lock, deadline: float | None) -> bool:
        if deadline is None:
            return turn.acquire()
        if turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return True
        with self._mutex:
            if turn in self._waiting:
                self._waiting.remove(turn)
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
            if self._waiting:
                self._owner = _HANDED_OVER
                self._waiting.popleft().release()
            else:
                self._owner = None

    def yield_lock(self) -> None:
        """Lets all current waiters go first, if the lock is held only once."""
        if self._depth == 1 and self._waiting:
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
