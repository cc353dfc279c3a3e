"""How calls that are safe to repeat are repeated."""

from __future__ import annotations

import random
import uuid

from milepost.errors import DeadlineExceeded, MilepostError, ResourceExhausted, Unavailable

ATTEMPTS_MAX = 6
BACKOFF_FIRST_SECONDS = 0.2
BACKOFF_LAST_SECONDS = 5.0
_JITTER = 0.5
"""Share of a pause that is random, so that many callers do not come back at once."""


def is_temporary(error: MilepostError, *, timeouts: bool = False) -> bool:
    """Whether another attempt may succeed: the service is unavailable, or a limit was reached and the service
    says when to try again. With `timeouts` also after no answer in time.
    """
    if isinstance(error, ResourceExhausted):
        return error.retry_after_seconds is not None
    return isinstance(error, Unavailable) or (timeouts and isinstance(error, DeadlineExceeded))


class Backoff:
    """The pauses between attempts. They grow until an attempt succeeds. With `timeouts` a call that timed out
    is repeated too.
    """

    def __init__(self, attempts_max: int = ATTEMPTS_MAX, *, timeouts: bool = False) -> None:
        self._attempts_max = attempts_max
        self._timeouts = timeouts
        self._failures = 0

    def failed(self, error: MilepostError) -> float:
        """Seconds to wait before the next attempt. Raises the error when there is none: after the last
        attempt, and after an error that another attempt would not mend.
        """
        if not is_temporary(error, timeouts=self._timeouts):
            raise error
        self._failures += 1
        if self._failures >= self._attempts_max:
            raise error
        pause = min(BACKOFF_FIRST_SECONDS * (1 << self._failures - 1), BACKOFF_LAST_SECONDS)
        return max(pause * (1 - _JITTER * random.random()), error.retry_after_seconds or 0.0)

    def succeeded(self) -> None:
        """The next failure is the first one again."""
        self._failures = 0


def new_request_id() -> str:
    """An idempotency key for a write that the caller gave none."""
    return str(uuid.uuid4())
