"""A connection of the HTTP server: the head of a request comes in time, and what is no HTTP is refused with a
reason, as everything else is.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from engine.errors import Aborted, InvalidInput, MilepostError
from service.web.errors import error_of, written

_CAN_ANSWER = (h11.IDLE, h11.SEND_RESPONSE)


def connections(head_s_max: float) -> type[H11Protocol]:
    """Connections whose requests have their headers within `head_s_max` seconds from the first byte on. Those
    of the first request are awaited from the beginning of the connection on.
    """

    class Connection(_Connection):
        _head_s_max = head_s_max

    return Connection


class _Connection(H11Protocol):
    _head_s_max: float
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._look_at_head()

    def on_response_complete(self) -> None:
        """Goes on with what has come of the next request."""
        super().on_response_complete()
        self._look_at_head()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, or has headers that are too long."""
        error = InvalidInput.one("request", f"is not HTTP/1.1 that this server reads: {msg}")
        self._refuse(HTTPStatus.BAD_REQUEST, error)

    def _look_at_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self.conn.trailing_data[0]:
            self._await_head()
        elif self.cycle is not None:
            # Idle between two requests: that has a limit of its own.
            self._stop_waiting()

    def _await_head(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(self._head_s_max, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            limit = f"{self._head_s_max:g}"
            error = Aborted(
                f"the headers of a request did not come within {limit} seconds",
                reason="STREAM_IDLE",
                metadata={"limit_s": limit},
            )
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, error)

    def _refuse(self, status: HTTPStatus, error: MilepostError) -> None:
        """Answers, unless an answer has begun, and hangs up."""
        if self.conn.our_state in _CAN_ANSWER:
            body = written(error_of(error))
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            parts: tuple[Any, ...] = (
                h11.Response(status_code=status.value, headers=headers, reason=status.phrase.encode()),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
