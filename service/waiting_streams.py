"""Streams of answers that hold no thread while they wait.

gRPC gives a stream of answers a thread for as long as it is open. Here a behaviour may yield a `Waiting` when
it has no answer yet. The stream then leaves its thread until the behaviour is woken, its time comes or its
caller leaves, and the next thread that is free goes on with it. A few threads serve thousands of streams. A
stream has at most one answer on its way to its caller, so a caller that does not read holds that one and no
thread.

Interceptors see every `Waiting` and pass it on. This uses internal parts of grpcio, as
`service.first_message` does. A release that calls them otherwise has a thread for each stream:
`tests/service/test_waiting_streams.py` fails then.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum, auto
from queue import SimpleQueue
from typing import Any

import structlog
from grpc import _server as internals
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from service.first_message import FirstMessages
from service.slots import Holder
from service.waiting import CURRENT_WAKE, Waiting
from service.workers import Workers

STREAM_THREADS = 4
"""Threads that give answers to streams. They wait for nothing but the store."""
ANSWERS_UNSENT_MAX = 1
"""Answers of a stream on their way to its caller. The next one is made once it is sent."""

_logger = structlog.get_logger("milepost.service")


class _Place(Enum):
    QUEUED = auto()
    RUNNING = auto()
    WAITING = auto()
    SENDING = auto()


class StreamWorkers(Workers):
    """Threads that serve streams of answers, of which `in_flight_max` may be open."""

    def __init__(self, name: str, in_flight_max: int, first_messages: FirstMessages) -> None:
        super().__init__(name, in_flight_max, in_flight_max, first_messages)
        self._serving = threading.local()
        self._ready: SimpleQueue[_Stream | None] = SimpleQueue()
        self._timers = _Timers(f"{name}-timer")
        self._open: set[_Stream] = set()
        self._threads_started = False

    def wake_all(self) -> None:
        """Has every stream look again whether it may go on."""
        for stream in list(self._open):
            stream.wake()

    def leave(self) -> None:
        """See `Workers`."""
        stream = getattr(self._serving, "stream", None)
        if stream is None:
            super().leave()
        else:
            self._leave(stream)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads after what is queued."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._timers.stop()
        if self._threads_started:
            for _ in range(STREAM_THREADS):
                self._ready.put(None)

    def _run(
        self,
        holder: Holder | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        if not args or args[0] is not internals._stream_response_in_pool:
            super()._run(holder, fn, args, kwargs)
            return
        with self._lock:
            if not self._threads_started:
                self._threads_started = True
                self._timers.start()
                for _ in range(STREAM_THREADS):
                    threading.Thread(target=self._serve, name=self.name, daemon=True).start()
        stream = _Stream(args, holder, self._ready, self._timers)
        self._open.add(stream)
        stream.begin()

    def _serve(self) -> None:
        while (stream := self._ready.get()) is not None:
            self._serving.stream = stream
            try:
                if not stream.has_begun:
                    self.waits.add(time.monotonic() - stream.queued_at)
                has_ended = not stream.run()
            except BaseException:
                _logger.exception("stream failed outside of its handler")
                has_ended = True
            finally:
                self._serving.stream = None
            if has_ended:
                # Only the thread that ran it last comes here.
                self._open.discard(stream)
                self._leave(stream)
                with self._lock:
                    self._in_flight -= 1
            del stream

    def _leave(self, stream: _Stream) -> None:
        if stream.counts:
            stream.counts = False
            self.slots.give_back(stream.holder)


class _Stream:
    """One call, between its answers."""

    def __init__(
        self,
        task: tuple[Any, ...],
        holder: Holder | None,
        ready: SimpleQueue[_Stream | None],
        timers: _Timers,
    ) -> None:
        _, self._rpc_event, self._state, self._behaviour, self._thunk, self._parse, self._serialise = task
        self._answers: Iterator[Any] | None = None
        self._ready = ready
        self._timers = timers
        self._lock = threading.Lock()
        self._place = _Place.WAITING
        self._is_woken = False
        self.holder = holder
        self.counts = True
        """Whether it counts towards the limit."""
        self.queued_at = time.monotonic()
        self.timed_for = float("inf")
        """When the timers wake it at the latest; kept by the timers."""

    @property
    def has_begun(self) -> bool:
        """Whether its first answer was asked for."""
        return self._answers is not None

    def begin(self) -> None:
        """Queues the stream for the first time."""
        with self._state.condition:
            if self._state.callbacks is not None:
                self._state.callbacks.append(self.wake)
        self.wake()

    def wake(self) -> None:
        """Has a thread go on with it: now, or after the answer that is being made or sent."""
        with self._lock:
            self._is_woken = True
            self._queue_if(_Place.WAITING)

    def _queue_if(self, place: _Place) -> None:
        if self._place is place:
            self._place = _Place.QUEUED
            self._ready.put(self)

    def run(self) -> bool:
        """Makes one answer. False: it was the last one, or the call is over."""
        with self._lock:
            self._place = _Place.RUNNING
            self._is_woken = False
        answer, goes_on = self._state.context.run(self._next)
        if not goes_on:
            return False
        if answer is None:
            internals._status(self._rpc_event, self._state, None)
            return False
        if isinstance(answer, Waiting):
            self._wait(answer.due)
            return True
        return self._send(answer)

    def _next(self) -> tuple[Any, bool]:
        if self._answers is None:
            CURRENT_WAKE.set(self.wake)
            request = self._thunk()
            if request is None:
                return None, False
            begun: tuple[Any, bool] = internals._call_behavior(
                self._rpc_event, self._state, self._behaviour, request, self._parse
            )
            self._answers, goes_on = begun
            if not goes_on:
                return None, False
        answered: tuple[Any, bool] = internals._take_response_from_response_iterator(
            self._rpc_event, self._state, self._answers
        )
        return answered

    def _wait(self, due: float) -> None:
        with self._lock:
            self._place = _Place.WAITING
            if self._is_woken:
                self._queue_if(_Place.WAITING)
                return
        self._timers.wake_at(due, self)

    def _send(self, answer: Any) -> bool:
        """Sends an answer, and goes on once it is sent, or cannot be sent any more. False: it is none."""
        sent_form = internals._serialize_response(self._rpc_event, self._state, answer, self._serialise)
        if sent_form is None:
            return False
        with self._lock:
            self._place = _Place.SENDING
        state = self._state
        with state.condition:
            is_active = internals._is_rpc_state_active(state)
            if is_active:
                operations = [cygrpc.SendMessageOperation(sent_form, internals._EMPTY_FLAGS)]
                token = internals._SEND_MESSAGE_TOKEN
                if state.initial_metadata_allowed:
                    operations.insert(0, internals._get_initial_metadata_operation(state, None))
                    state.initial_metadata_allowed = False
                    token = internals._SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN
                finish = internals._send_message(state, token)
                state.due.add(token)
                self._rpc_event.call.start_server_batch(
                    tuple(operations), lambda event: self._sent(finish(event))
                )
        if not is_active:
            self._sent(None)
        return True

    def _sent(self, finished: Any) -> Any:
        with self._lock:
            self._queue_if(_Place.SENDING)
        return finished


class _Timers:
    """Wakes streams at their times, in a thread of its own."""

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, _Stream]] = []
        self._numbers = itertools.count()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def wake_at(self, due: float, stream: _Stream) -> None:
        """Wakes a stream at an instant, or before. It has one entry in the list, as a rule."""
        with self._changed:
            if stream.timed_for <= due:
                return
            stream.timed_for = due
            heapq.heappush(self._due, (due, next(self._numbers), stream))
            if self._due[0][2] is stream:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not (self._due and self._due[0][0] <= time.monotonic()):
                    self._changed.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._stopped:
                    return
                due, _, stream = heapq.heappop(self._due)
                if stream.timed_for == due:
                    stream.timed_for = float("inf")
            stream.wake()
