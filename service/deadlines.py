"""How long a call may take: the caller's deadline, or the server's own limit when it comes first."""

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
        """The instant by which the answer must be there; a call without a deadline gets the limit."""
        return time.monotonic() + min(context.time_remaining(), self.call_s_max)

    def of_stream(self, context: grpc.ServicerContext) -> float | None:
        """The caller's deadline alone: a stream may last as long as the caller wants."""
        remaining_s = context.time_remaining()
        # A call without a deadline has a number of seconds left too, one that no thread can wait for.
        return None if remaining_s > threading.TIMEOUT_MAX else time.monotonic() + remaining_s
