"""A lock that serves its waiters in the order they came.

`threading.Lock` lets the thread that just released it take it again at once, so that a writer applying a long
batch in chunks would starve every reader. This one is handed over to the longest waiting thread.
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
        """Takes the lock; False when the deadline, a `time.monotonic()` instant, passes first."""
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
        # It was handed over between the timeout and here.
        return turn.acquire()

    def release(self) -> None:
        """Gives the lock back, to the first waiter if there is one."""
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
        """Lets those go first who wait, if the lock is held once only."""
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
"""No thread's ident: the lock is on its way to a waiter."""
