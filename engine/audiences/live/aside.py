"""Accounts that are refreshed aside, so that a costly one delays no other.

A round brings all journeys to one instant, and takes as long as all of them together. So each account has a
share of its time (`ACCOUNT_S_MAX`). One that needs more is left as it was and refreshed aside, in rounds of
its own, which other threads run. It comes back when its rounds have been short for a while: not at once,
since what it uses up of each common round is lost. An account without others delays nobody, and what it has
begun would be lost, so it has longer (`ALONE_S_MAX`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engine.audiences.live.rounds import rest_after

ACCOUNT_S_MAX = 0.25
"""Time that an account has in a round of all accounts."""
ALONE_S_MAX = 2.0
"""Time that it has when no other account has journeys: one that comes meanwhile waits for it."""
CALM_S = 30.0
"""An account comes back when its rounds have been short for this long."""
SHORT_SHARE = 0.5
"""Rounds that take at most this share of an account's time are short."""


@dataclass(slots=True)
class _Account:
    due_at: float
    calm_since: float
    is_running: bool = False


class Aside:
    """Which accounts are refreshed aside, and when each is due. Safe to call from several threads."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        processor_time: Callable[[], float] = time.thread_time,
    ) -> None:
        """Both in seconds; `processor_time` is that of the thread which calls."""
        self._clock = clock
        self._processor_time = processor_time
        self._changed = threading.Condition()
        self._accounts: dict[str, _Account] = {}
        self._is_closed = False

    def __contains__(self, account: str) -> bool:
        return account in self._accounts

    def __len__(self) -> int:
        return len(self._accounts)

    def put(self, account: str) -> None:
        """The account is refreshed aside from now on."""
        with self._changed:
            now = self._clock()
            if account not in self._accounts:
                self._accounts[account] = _Account(now, now)
                self._changed.notify()

    @contextmanager
    def taken(self, timeout_s: float) -> Iterator[str | None]:
        """The account that is due for the longest time, for a round within the block; None: none was within
        the timeout. The others are for other threads.
        """
        with self._changed:
            name = self._wait(timeout_s)
        if name is None:
            yield None
            return
        began, spent = self._clock(), self._processor_time()
        try:
            yield name
        finally:
            with self._changed:
                self._ended(name, began, rest_after(self._processor_time() - spent))
                self._changed.notify()

    def close(self) -> None:
        """No account is due any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _wait(self, timeout_s: float) -> str | None:
        until = self._clock() + timeout_s
        while not self._is_closed:
            now = self._clock()
            waiting = {name: each for name, each in self._accounts.items() if not each.is_running}
            first = min(waiting, key=lambda name: waiting[name].due_at, default=None)
            if first is not None and waiting[first].due_at <= now:
                waiting[first].is_running = True
                return first
            if now >= until:
                return None
            self._changed.wait((until if first is None else min(until, waiting[first].due_at)) - now)
        return None

    def _ended(self, name: str, began: float, rest_s: float) -> None:
        account, now = self._accounts[name], self._clock()
        seconds = now - began
        if seconds > ACCOUNT_S_MAX * SHORT_SHARE:
            account.calm_since = now
        if now - account.calm_since >= CALM_S:
            del self._accounts[name]
            return
        account.is_running = False
        account.due_at = now + rest_s
