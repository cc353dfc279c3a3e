"""Turns of the threads that compile patterns for calls.

RE2 compiles while the interpreter runs nothing else, some milliseconds for the largest pattern. So one thread
of the process does it at a time, one pattern a turn, and all of them together leave the interpreter to others
for as long as they have worked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from engine.deadline import check_deadline

WAIT_SECONDS = 0.05
"""How often a thread that waits for its turn looks at its deadline."""


class _Turns:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_at = 0.0
        """When the next pattern may be compiled, by `time.monotonic`."""

    @contextmanager
    def one(self, deadline: float | None) -> Iterator[None]:
        """The turn of a thread to compile one pattern. Raises DeadlineExceeded. Hold no lock: the turns of
        other threads may come first.
        """
        check_deadline(deadline)
        while not self._lock.acquire(timeout=WAIT_SECONDS):
            check_deadline(deadline)
        try:
            time.sleep(max(0.0, self._free_at - time.monotonic()))
            check_deadline(deadline)
            began = time.thread_time()
            try:
                yield
            finally:
                worked = time.thread_time() - began
                self._free_at = time.monotonic() + worked
        finally:
            self._lock.release()
        # Those that wait have their turns before the next one of this thread.
        time.sleep(worked)


compiling = _Turns().one
