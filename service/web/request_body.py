"""The body of a request: it comes in time, and a caller that still sends it hears when the service stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from engine.errors import Aborted, MilepostError, StoreUnavailable
from service.stopping import Stopping
from service.web.errors import error_of

Receive = Callable[[], Awaitable[Any]]


class Bodies:
    """The bodies that are awaited. For the thread of the event loop alone."""

    def __init__(self) -> None:
        self._stopping = Stopping()
        self._awaited: set[asyncio.Timeout] = set()

    def stop(self) -> None:
        """Refuses what has not come yet, and what comes later."""
        self._stopping.set()
        now = asyncio.get_running_loop().time()
        for timeout in self._awaited:
            timeout.reschedule(now)

    async def receive(self, receive: Receive, deadline: float, limit_s: float) -> Any:
        """The next part, until the deadline, which is `limit_s` after the one before. Raises ConnectError."""
        try:
            async with asyncio.timeout_at(0.0 if self._stopping.is_set() else deadline) as timeout:
                self._awaited.add(timeout)
                try:
                    return await receive()
                finally:
                    self._awaited.discard(timeout)
        except TimeoutError:
            raise error_of(self._why(limit_s)) from None

    def _why(self, limit_s: float) -> MilepostError:
        if self._stopping.is_set():
            return StoreUnavailable(
                "the service is stopping; try again", retry_after_s=self._stopping.retry_in_s
            )
        return Aborted(
            f"no request came for {limit_s:g} seconds; call again when there is one",
            reason="STREAM_IDLE",
            metadata={"limit_s": f"{limit_s:g}"},
        )


class TimedBody:
    """The `receive` of a request, whose body has to come in time."""

    def __init__(self, receive: Receive, bodies: Bodies, limit_s: float, *, is_each: bool) -> None:
        """The limit is for the whole body; with `is_each` for every part of it."""
        self._receive = receive
        self._bodies = bodies
        self._limit_s = limit_s
        self._is_each = is_each
        self._deadline = asyncio.get_running_loop().time() + limit_s
        self._is_complete = False

    async def __call__(self) -> Any:
        if self._is_complete:
            return await self._receive()
        if self._is_each:
            self._deadline = asyncio.get_running_loop().time() + self._limit_s
        message = await self._bodies.receive(self._receive, self._deadline, self._limit_s)
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message
