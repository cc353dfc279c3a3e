"""Deadlines of calls: the caller's deadline, capped by the server's limit."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Turns a call's remaining time into the instant of `time.monotonic()` that the engine works towards."""

    call_s_max: float

    def of(self, context: grpc.ServicerContext) -> float:
        """Deadline of a unary call. A call without a deadline gets the limit."""
        return time.monotonic() + min(context.time_remaining(), self.call_s_max)

    def of_stream(self, context: grpc.ServicerContext) -> float | None:
        """Deadline of a stream: the caller's only, or None."""
        remaining_s = context.time_remaining()
        # A call without a deadline has a number of seconds left too, one that no thread can wait for.
        return None if remaining_s > threading.TIMEOUT_MAX else time.monotonic() + remaining_s
