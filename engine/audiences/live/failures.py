"""What goes wrong in one journey's part of a round is that journey's failure, whatever it is.

Accounts share the rounds. So an error that nobody expected, a fault of the service, fails the journey that it
came up in and no other: callers see it where they ask about the journey, and it is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from engine.audiences.live.state import JourneyState
from engine.errors import Defect, MilepostError, failure_of

LOGGED_AGAIN_S = 600.0
"""Time after which a failure that lasts is logged again."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)


class Failures:
    """Keeps the failure of each journey, and logs it when it changes."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer

    def note(self, journey: str, state: JourneyState, error: MilepostError | None) -> None:
        """The outcome of a round over a journey: its error; None when it succeeded."""
        if error is None:
            state.failure = ""
            return
        now = state.failed_at = self._timer()
        if error.message == state.failure and now < state.failure_logged + LOGGED_AGAIN_S:
            return
        state.failure, state.failure_logged = error.message, now
        _logger.error(
            "refresh of a journey failed",
            extra={"journey": journey, "reason": error.reason, "error": error.message},
            exc_info=error if isinstance(error, Defect) else None,
        )

    def is_waiting(self, state: JourneyState, seconds: float) -> bool:
        """Whether a journey failed less than this time ago."""
        return bool(state.failure) and self._timer() < state.failed_at + seconds


def each_alone(items: Sequence[T], run: Callable[[Sequence[T]], object]) -> list[tuple[T, MilepostError]]:
    """Runs for all items together and, when that fails, for each of them. Returns those that fail alone."""
    if not items:
        return []
    try:
        run(items)
    except Exception as error:
        if len(items) == 1:
            return [(items[0], failure_of(error))]
        return [failed for item in items for failed in each_alone([item], run)]
    return []
