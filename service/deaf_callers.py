"""Ends streams of answers whose callers do not read them.

gRPC lets the thread of a stream wait until the caller reads. It can wait for ever: a connection that is alive
says nothing of the program behind it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from service.repeating import Repeating
from service.waiting import Waiting

SWEEP_INTERVAL_S = 0.5
"""Interval between checks for callers that do not read."""

_logger = structlog.get_logger("milepost.access")


class DeafCallers(Repeating):
    """Ends streams that could not send an answer for `limit_s` seconds, UNAVAILABLE: what they read can be
    called again, and a watch resumed. gRPC sends a status past answers that are not read only when it breaks
    off the stream, and then without details.
    """

    def __init__(self, limit_s: float) -> None:
        super().__init__("deaf-callers")
        self._limit_s = limit_s
        self._sending: dict[int, tuple[float, str, grpc.ServicerContext]] = {}
        """By identity of the context, in order of time."""

    def sent(self, answers: Iterator[Any], method: str, context: grpc.ServicerContext) -> Iterator[Any]:
        """The answers, each of which has to be sent in time."""
        key = id(context)
        try:
            for answer in answers:
                if isinstance(answer, Waiting):
                    yield answer
                    continue
                self._sending[key] = time.monotonic(), method, context
                yield answer
                self._sending.pop(key, None)
        finally:
            self._sending.pop(key, None)

    def _turn(self) -> float:
        latest = time.monotonic() - self._limit_s
        for since, method, context in list(self._sending.values()):
            if since > latest:
                break
            _logger.warning("caller does not read", method=method, limit_s=self._limit_s)
            _break_off(context, f"the caller did not read for {self._limit_s:g} seconds: read on, or resume")
        return SWEEP_INTERVAL_S


def _break_off(context: grpc.ServicerContext, message: str) -> None:
    rpc_event = getattr(context, "_rpc_event", None)
    if rpc_event is None:
        # A context that an interceptor has wrapped.
        context.cancel()
    else:
        rpc_event.call.cancel(cygrpc.StatusCode.unavailable, message)
