"""Which connection is delivered next: fair between connections, whatever their outputs do.

Connections that are due wait in line, each for one batch. Those whose outputs were slow lately have a line of
their own and at most half of the threads, so they can be as many as they like and others still go on. A
connection that waits for a time or for changes takes no thread.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

AT_ONCE = 0.0
WHEN_WOKEN = math.inf
"""Instants of `time.monotonic()` for work that is due, and for work that waits for changes alone."""


class Task(Protocol):
    """Something that is done step by step."""

    @property
    def is_slow(self) -> bool:
        """Whether its last step held a thread for long."""
        ...


T = TypeVar("T", bound=Task)


class _Place(Enum):
    READY = auto()
    RUNNING = auto()
    WAITING = auto()


class Schedule(Generic[T]):
    """Tasks by when they are due. Safe to call from several threads; a task runs in one at a time."""

    def __init__(self, threads: int) -> None:
        self._slow_max = max(1, threads // 2)
        self._running_slow: set[T] = set()
        self._fast: deque[T] = deque()
        self._slow: deque[T] = deque()
        self._timed: list[tuple[float, int, T]] = []
        self._numbers = itertools.count()
        self._places: dict[T, tuple[_Place, int]] = {}
        """Where a task is, and since which move. An entry of `_timed` with another number is void."""
        self._closed = False
        self._changed = threading.Condition()

    def add(self, task: T) -> None:
        """Takes in a task that is due."""
        with self._changed:
            self._make_ready(task)

    def remove(self, task: T) -> bool:
        """Forgets a task. False: it runs."""
        with self._changed:
            place, _ = self._places[task]
            if place is _Place.RUNNING:
                return False
            if place is _Place.READY:
                (self._slow if task in self._slow else self._fast).remove(task)
            del self._places[task]
            return True

    def take(self) -> T | None:
        """A task that is due, once there is one; None when the schedule is closed."""
        with self._changed:
            while not self._closed:
                wait_s = self._move_due()
                task = self._next()
                if task is not None:
                    return task
                self._changed.wait(wait_s)
            return None

    def put_back(self, task: T, at: float) -> None:
        """Ends the step of a task. The next one is due at an instant of `time.monotonic()`."""
        with self._changed:
            self._running_slow.discard(task)
            if at <= time.monotonic():
                self._make_ready(task)
            else:
                number = self._move(task, _Place.WAITING)
                if at < WHEN_WOKEN:
                    heapq.heappush(self._timed, (at, number, task))
            # A slow task may run instead of this one, or another thread waits longer than this one has to.
            self._changed.notify()

    def wake(self, tasks: Iterable[T]) -> None:
        """Makes tasks due that wait."""
        with self._changed:
            for task in tasks:
                if self._is_waiting(task):
                    self._make_ready(task)

    def waiting(self) -> list[T]:
        """The tasks that wait for a time or for changes."""
        with self._changed:
            return [task for task in self._places if self._is_waiting(task)]

    def close(self) -> None:
        """Gives out no further task."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_waiting(self, task: T) -> bool:
        return self._places.get(task, (None, 0))[0] is _Place.WAITING

    def _move(self, task: T, place: _Place) -> int:
        number = next(self._numbers)
        self._places[task] = place, number
        return number

    def _make_ready(self, task: T) -> None:
        self._move(task, _Place.READY)
        (self._slow if task.is_slow else self._fast).append(task)
        self._changed.notify()

    def _move_due(self) -> float | None:
        """Makes tasks ready whose time has come. Returns the seconds until the next one's; None: none has."""
        now = time.monotonic()
        while self._timed:
            at, number, task = self._timed[0]
            if self._places.get(task) != (_Place.WAITING, number):
                heapq.heappop(self._timed)
            elif at <= now:
                heapq.heappop(self._timed)
                self._make_ready(task)
            else:
                return at - now
        return None

    def _next(self) -> T | None:
        may_be_slow = bool(self._slow) and len(self._running_slow) < self._slow_max
        # One thread is for slow tasks when there are any, so that fast ones do not keep them waiting.
        if may_be_slow and (not self._fast or not self._running_slow):
            task = self._slow.popleft()
            self._running_slow.add(task)
        elif self._fast:
            task = self._fast.popleft()
        else:
            return None
        self._move(task, _Place.RUNNING)
        return task
