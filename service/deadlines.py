"""Deadlines of calls: the caller's deadline, capped by the server's limit. Work ends earlier when the call is
cancelled, or when the service stops and its grace period is over.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import grpc

from engine.deadline import Deadline
from service.stopping import Stopping

REFUSAL_S_MAX = 0.01
REFUSAL_SHARE = 0.1
"""How much of its time a call keeps for its refusal, in seconds and as a share. One that is sent at the
deadline comes too late, and the caller never learns what it waited for.
"""
STREAM_S_MAX = 10 * 365 * 86_400.0
"""Stands for a stream without a deadline, in seconds: a wait takes no longer ones than centuries."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Converts a call's remaining time into the engine's deadline, an instant of `time.monotonic()`."""

    call_s_max: float
    stopping: Stopping

    def of(self, context: grpc.ServicerContext) -> Deadline:
        """Deadline of a unary call. A call without a deadline gets the limit."""
        return self._deadline(context, min(context.time_remaining(), self.call_s_max))

    def of_stream(self, context: grpc.ServicerContext) -> Deadline:
        """Deadline of a stream: the caller's only, and otherwise so far ahead that it never passes."""
        # A call without a deadline reports a remaining time as well, too large for any wait.
        return self._deadline(context, min(context.time_remaining(), STREAM_S_MAX))

    def _deadline(self, context: grpc.ServicerContext, remaining_s: float) -> Deadline:
        work_s = remaining_s - min(REFUSAL_S_MAX, REFUSAL_SHARE * remaining_s)
        return Deadline(
            time.monotonic() + work_s, lambda: self.stopping.grace_over or not context.is_active()
        )
