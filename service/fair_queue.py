"""Tasks for the threads of a pool: no account has all of the threads, however many calls it makes.

An account has a share of the threads that others leave, as it has of the slots (`service.slots`). Tasks
beyond it wait in the account's own line, so another account's call finds a thread, or waits behind few. Calls
without a holder have no share.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple

from service.slots import Holder, share_of


class Task(NamedTuple):
    """A call to make."""

    queued_at: float
    """By `time.monotonic`."""
    holder: Holder | None
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class FairQueue:
    """Tasks that wait for a thread."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._ready: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        """Tasks of each holder that run or are next."""
        self._all_running = 0
        self._lines: dict[str, deque[Task]] = {}
        """Those that wait for their holder's share, the holder first that waits longest for a turn."""

    def put(self, task: Task) -> None:
        """Adds a task."""
        holder = task.holder
        if holder is None:
            self._ready.put(task)
            return
        with self._lock:
            if self._may_run(holder):
                self._run(holder.name, task)
            else:
                self._lines.setdefault(holder.name, deque()).append(task)

    def get(self) -> Task | None:
        """The next task, for a thread that tells `done` afterwards. None: the thread ends."""
        return self._ready.get()

    def done(self, holder: Holder | None) -> None:
        """A task of the holder has ended."""
        if holder is None:
            return
        with self._lock:
            self._running[holder.name] -= 1
            self._all_running -= 1
            if not self._running[holder.name]:
                del self._running[holder.name]
            if self._lines:
                self._go_on()

    def close(self, threads: int) -> None:
        """Ends that many threads after the tasks that wait."""
        with self._lock:
            for name, line in self._lines.items():
                for task in line:
                    self._run(name, task)
            self._lines.clear()
        for _ in range(threads):
            self._ready.put(None)

    def _go_on(self) -> None:
        for name in list(self._lines):
            line = self._lines[name]
            holder = line[0].holder
            assert holder is not None
            if self._may_run(holder):
                self._run(name, line.popleft())
                # Its next turn comes after the others'.
                del self._lines[name]
                if line:
                    self._lines[name] = line

    def _may_run(self, holder: Holder) -> bool:
        own = self._running[holder.name]
        return own < share_of(holder.percent, self._threads - (self._all_running - own))

    def _run(self, holder: str, task: Task) -> None:
        self._running[holder] += 1
        self._all_running += 1
        self._ready.put(task)
