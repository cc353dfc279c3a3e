"""When the work of a call ends: at its deadline, or earlier when the caller gives up."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.errors import DeadlineExceeded

VALUES_PER_CHECK = 256
"""Values, of at most a few kilobytes each, that long work tests before it checks its deadline again."""


A_DAY_S = 86_400.0
"""As long as work without a limit may take, in seconds."""


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


class TimeShares:
    """How long work for each account may take, within work for many of them. For one thread."""

    def __init__(
        self, seconds_max: float = A_DAY_S, is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        """`seconds_max`: for each account. `is_cancelled`: the work for all of them is to end."""
        self.seconds_max = seconds_max
        self._is_cancelled = is_cancelled
        self._spent: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def of(self, account: str) -> Iterator[Deadline]:
        """Work for an account is the block, which ends at the deadline."""
        began = time.monotonic()
        try:
            yield Deadline(began + self.seconds_max - self._spent[account], self._is_cancelled)
        finally:
            self._spent[account] += time.monotonic() - began

    def is_over(self, account: str) -> bool:
        """Whether the account has used up its share, or all work is to end."""
        return self._spent[account] >= self.seconds_max or self._is_cancelled()
