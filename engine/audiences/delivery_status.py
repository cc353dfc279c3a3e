"""How delivery goes: what was delivered lately, and what failed. In memory, for each connection."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

import msgspec

from engine.measures import Counter, Measure, counted
from engine.resources.targets import TARGETS
from engine.values import Micros

RATE_WINDOW_S = 60
"""The rate of a connection is over that many seconds."""


class DeliveryStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a connection is behind, and how its last attempts ended. `lag` is the age of the oldest change
    after the cursor or, if that is longer, the time for which attempts have been failing; times are 0 when
    there is none. `error` is that of the last attempt that failed, and `failures` how many failed in a row.
    """

    pending_changes: int = 0
    pending_snapshot: bool = False
    """Members of a snapshot are still to be delivered; they are no changes."""
    lag: Micros = 0
    changes_per_second: float = 0.0
    last_success: Micros = 0
    error: str = ""
    error_time: Micros = 0
    failures: int = 0


class Attempts(msgspec.Struct):
    """The attempts of one connection since the start: (second, changes) delivered, and failures in a row."""

    delivered: deque[tuple[int, int]] = msgspec.field(default_factory=deque)
    error: str = ""
    error_time: Micros = 0
    failures: int = 0


class DeliveryLog:
    """Attempts by connection. Safe to call from several threads. `now_s` is a clock that never goes back."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._attempts: dict[str, Attempts] = {}
        kinds = [kind for kind, target in TARGETS.items() if target.sends]
        self._changes = {kind: Counter() for kind in kinds}
        self._failures = {kind: Counter() for kind in kinds}
        self._refused = {kind: Counter() for kind in kinds}

    def succeeded(self, connection: str, kind: str, changes: int) -> None:
        """Notes a batch that an output of that kind took."""
        second = int(self._now_s())
        with self._lock:
            attempts = self._attempts.setdefault(connection, Attempts())
            attempts.failures = 0
            earlier = 0
            if attempts.delivered and attempts.delivered[-1][0] == second:
                _, earlier = attempts.delivered.pop()
            attempts.delivered.append((second, earlier + changes))
            self._forget_before(attempts, second - RATE_WINDOW_S)
        self._changes[kind].add(changes)

    def refused(self, kind: str, changes: int) -> None:
        """Notes changes of a batch that an output of that kind took without them."""
        self._refused[kind].add(changes)

    def failed(self, connection: str, kind: str, error: str, now: Micros) -> None:
        """Notes a batch that an output of that kind did not take."""
        with self._lock:
            attempts = self._attempts.setdefault(connection, Attempts())
            attempts.failures += 1
            attempts.error, attempts.error_time = error, now
        self._failures[kind].add()

    def of(self, connection: str) -> DeliveryStatus:
        """What is known of a connection's attempts."""
        with self._lock:
            attempts = self._attempts.get(connection)
            if attempts is None:
                return DeliveryStatus()
            self._forget_before(attempts, int(self._now_s()) - RATE_WINDOW_S)
            return DeliveryStatus(
                changes_per_second=sum(changes for _, changes in attempts.delivered) / RATE_WINDOW_S,
                error=attempts.error,
                error_time=attempts.error_time,
                failures=attempts.failures,
            )

    def keep(self, connections: Collection[str]) -> None:
        """Forgets connections that do not exist any more."""
        with self._lock:
            for name in self._attempts.keys() - connections:
                del self._attempts[name]

    def measures(self) -> Iterator[Measure]:
        """Changes delivered, attempts that failed and changes that were refused, by kind of output."""
        for kind, changes in self._changes.items():
            yield counted(
                "delivery_changes_total", "Changes delivered, by kind of output.", changes, kind=kind
            )
        for kind, failures in self._failures.items():
            yield counted(
                "delivery_failures_total",
                "Attempts to deliver that failed, repeats included, by kind of output.",
                failures,
                kind=kind,
            )

        for kind, refused in self._refused.items():
            yield counted(
                "delivery_refused_changes_total",
                "Changes that receivers refused one by one and that are in a file, by kind of output.",
                refused,
                kind=kind,
            )

    def _forget_before(self, attempts: Attempts, second: int) -> None:
        while attempts.delivered and attempts.delivered[0][0] <= second:
            attempts.delivered.popleft()
