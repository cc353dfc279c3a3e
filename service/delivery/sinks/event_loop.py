"""An asyncio loop in a thread of its own, for clients of brokers that have no other form.

All sinks of the process share it. It only moves bytes: events are rendered by the senders.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GRACE_S = 5.0
"""How much longer than its deadline a coroutine may take to end."""


class EventLoop:
    """The loop. Its thread starts with the first use and ends with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T], deadline: float) -> T:
        """The result of a coroutine. It is cancelled at `deadline`, an instant of `time.monotonic()`, and
        TimeoutError is raised.
        """
        loop, remaining_s = self._started(), deadline - time.monotonic()
        limited = asyncio.wait_for(coroutine, max(0.0, remaining_s))
        return asyncio.run_coroutine_threadsafe(limited, loop).result(max(0.0, remaining_s) + GRACE_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="outputs", daemon=True).start()
            return self._loop


LOOP = EventLoop()
"""Of this process."""
