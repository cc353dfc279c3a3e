"""How the behaviour of a stream says that it has no answer yet: see `service.waiting_streams`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

THREAD_WAIT_S_MAX = 0.25
"""How long a stream with a thread of its own waits before it looks whether its caller has left."""

CURRENT_WAKE: ContextVar[Callable[[], None] | None] = ContextVar("milepost_wake", default=None)
"""Wakes the stream that is served in this context; None: the stream has a thread of its own."""


class Waiting(NamedTuple):
    """Stands for an answer that is not there before `due`, an instant of `time.monotonic()`, unless the
    behaviour is woken.
    """

    due: float


class Wake:
    """Wakes the stream that is served in this context when it is called, from any thread. It never waits."""

    def __init__(self) -> None:
        self._wake = CURRENT_WAKE.get()
        self._called = threading.Event()

    def __call__(self) -> None:
        if self._wake is None:
            self._called.set()
        else:
            self._wake()

    def until(self, due: float) -> Iterator[Waiting]:
        """What a behaviour yields to wait. In a stream that has a thread of its own the thread waits."""
        if self._wake is not None:
            yield Waiting(due)
        else:
            self._called.wait(max(0.0, min(due - time.monotonic(), THREAD_WAIT_S_MAX)))
            self._called.clear()
