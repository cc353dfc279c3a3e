"""When the work of a call ends: at its deadline, or earlier when the caller gives up."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.errors import DeadlineExceeded

VALUES_PER_CHECK = 256
"""Values, of at most a few kilobytes each, that long work tests before it checks its deadline again."""


class Deadline(float):
    """An instant of `time.monotonic()` that also knows whether the caller has given up."""

    def __new__(cls, instant: float, _is_cancelled: Callable[[], bool]) -> Deadline:
        """The deadline at an instant."""
        return super().__new__(cls, instant)

    def __init__(self, _instant: float, is_cancelled: Callable[[], bool]) -> None:
        """`is_cancelled` is called often, from the thread that does the work."""
        self.is_cancelled = is_cancelled


def is_cancelled(deadline: float | None) -> bool:
    """Whether the caller has given up."""
    return isinstance(deadline, Deadline) and deadline.is_cancelled()


def check_deadline(deadline: float | None) -> None:
    """Raises DeadlineExceeded once the deadline has passed or the caller has given up."""
    if deadline is None:
        return
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the deadline passed before the answer was ready")
    if is_cancelled(deadline):
        raise DeadlineExceeded("the caller cancelled the call")
