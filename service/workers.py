"""Threads that run calls, count and limit them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import structlog

from engine.errors import LimitExceeded
from engine.measures import Counter, Durations
from service.auth.caller import holder_in
from service.fair_queue import FairQueue, Task
from service.first_message import Call, Receives
from service.silent_streams import SilentStreams
from service.slots import Holder, Slots

_logger = structlog.get_logger("milepost.service")


class _Current(threading.local):
    """Whether the call that this thread runs counts towards the limit."""

    counts = False
    holder: Holder | None = None


class Workers(ThreadPoolExecutor):
    """Daemon threads, started as needed, that count and limit their calls, running and queued.

    gRPC takes nothing but a ThreadPoolExecutor, and only submits to it. The executor's own `submit` makes a
    future for each call, which costs more than the rest of the way to a handler and which nobody reads.
    """

    def __init__(
        self,
        name: str,
        threads: int,
        in_flight_max: int,
        first_messages: Receives | None = None,
        silent_streams: SilentStreams | None = None,
    ) -> None:
        """With `first_messages` a call with one request takes no thread before its message is there. Streams
        among `silent_streams` give way when all slots are taken.
        """
        super().__init__(max_workers=threads)
        self.name = name
        self.refused = Counter()
        """Calls refused because the pool was full."""
        self.waits = Durations()
        """How long calls waited for a thread."""
        self._threads_max = threads
        self._first_messages = first_messages
        self._silent = [calls for calls in (first_messages, silent_streams) if calls is not None]
        self._started = 0
        self._due = 0
        self._in_flight = 0
        self.slots = Slots(name, in_flight_max)
        """Those of calls that run or are queued. A call holds one until its answer is ready to be sent."""
        self._lock = threading.Lock()
        self._current = _Current()
        self._tasks = FairQueue(threads)

    @property
    def in_flight(self) -> int:
        """Number of calls running or queued."""
        return self._in_flight

    @property
    def in_flight_max(self) -> int:
        """The limit of calls."""
        return self.slots.most

    def refuse_if_full(self, holder: Holder | None) -> None:
        """Raises LimitExceeded when the limit of calls is reached, or the holder has its share of them. At
        the limit, the call of a caller without a key that has waited for a message for longest gives way.
        """
        try:
            if self.slots.are_all_taken and self._makes_room():
                self.slots.check_share(holder)
            else:
                self.slots.check(holder)
        except LimitExceeded:
            self.refused.add()
            raise

    def _makes_room(self) -> bool:
        return any(calls.refuse_longest(self.name) for calls in self._silent)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs `fn` in a thread of the pool and counts it until it ends. The future does not wait for it."""
        holder = holder_in(fn)
        self.slots.take(holder)
        with self._lock:
            self._in_flight += 1
        call = None if self._first_messages is None else Call.of(args)
        if call is None or self._first_messages is None:
            self._run(holder, fn, args, kwargs)
        else:
            self._first_messages.receive(
                call, lambda task: self._run(holder, fn, task, kwargs), self.name if holder is None else None
            )
        return _SUBMITTED

    def _run(
        self,
        holder: Holder | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Has a thread call `fn`, a new one if all are busy and there may be more."""
        with self._lock:
            self._due += 1
            if self._started < min(self._due, self._threads_max):
                self._started += 1
                threading.Thread(target=self._work, name=self.name, daemon=True).start()
        self._tasks.put(Task(time.monotonic(), holder, fn, args, kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads after the calls that are queued."""
        with self._lock:
            started, self._started = self._started, self._threads_max
        self._tasks.close(started)

    def leave(self) -> None:
        """Takes the call that this thread runs from the limit. Called before its answer is sent, so that a
        caller who has an answer can make the next call.
        """
        if self._current.counts:
            self._current.counts = False
            self.slots.give_back(self._current.holder)

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            queued_at, holder, fn, args, kwargs = task
            self._current.holder = holder
            self.waits.add(time.monotonic() - queued_at)
            self._current.counts = True
            try:
                fn(*args, **kwargs)
            except BaseException:
                _logger.exception("call failed outside of its handler")
            finally:
                # What a call holds is freed before the next one comes, which may be in hours.
                del task, fn, args, kwargs
                self.leave()
                self._tasks.done(holder)
                with self._lock:
                    self._due -= 1
                    self._in_flight -= 1


_SUBMITTED: Future[Any] = Future()
_SUBMITTED.set_result(None)
