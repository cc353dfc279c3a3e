"""The longest hold of the state lock by each kind of read, in processor time of the thread that holds it.

Someone waits all the time: reads give way wherever they can. Processor time hardly depends on what else runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, cast
from unittest import mock

import msgspec

from engine import Engine
from engine.audiences.model import SavedTarget
from engine.backends.local.backend import LocalBackend
from engine.backends.local.storage.fair_lock import FairLock
from engine.resources.records import Milestone
from engine.values import MICROS_PER_SECOND, Micros
from tests.bench.marketing_world import ACCOUNT, JOURNEY, NOW

TURNS = 5
AUDIENCE = f"{ACCOUNT}/audiences/everyone-again"


@dataclass(frozen=True)
class Hold:
    """The longest hold of each turn, in milliseconds, and the number of holds of the last one."""

    what: str
    longest_ms: list[float]
    holds: int

    @property
    def median_ms(self) -> float:
        return median(self.longest_ms)


def measure(engine: Engine, milestone: Milestone) -> list[Hold]:
    """One read of each kind after the other, each as of another instant, so that no answer is cached."""
    backend = cast(LocalBackend, engine.backend)
    name = milestone.name
    plan = engine.sizes._targets.saved(name).compile(NOW, with_labels=False).plan
    plan = msgspec.structs.replace(plan, roots=plan.roots[:1])

    def export(at: Micros) -> None:
        for _ in engine.members.export(name, as_of=at):
            pass

    reads: dict[str, Callable[[Micros], object]] = {
        "CountAudience": lambda at: engine.sizes.count(name, as_of=at),
        "EstimateAudience": lambda at: engine.sizes.estimate(SavedTarget(name), as_of=at),
        "ExportMembers": export,
        "ExplainAudience": lambda at: engine.members.explain_audience(SavedTarget(name), as_of=at),
        "calculation of an audience": lambda at: backend.refresh(
            ACCOUNT, JOURNEY, [AUDIENCE], msgspec.structs.replace(plan, as_of=at), whole=True
        ),
    }
    found = []
    instant = NOW
    for what, read in reads.items():
        longest = []
        for _ in range(TURNS):
            instant += MICROS_PER_SECOND
            with _holds(backend) as seconds:
                read(instant)
            longest.append(max(seconds) * 1_000)
        found.append(Hold(what, longest, len(seconds)))
    backend.drop_membership(AUDIENCE)
    backend.drop_scope(JOURNEY)
    return found


@contextmanager
def _holds(backend: LocalBackend) -> Iterator[list[float]]:
    """Collects the processor time of each hold of the state lock within the block."""
    lock, acquire, release = backend._state._lock, FairLock.acquire, FairLock.release
    seconds: list[float] = []
    begun = 0.0

    def timed_acquire(self: FairLock, *args: Any, **kwargs: Any) -> bool:
        nonlocal begun
        is_mine = acquire(self, *args, **kwargs)
        if self is lock and self._depth == 1:
            begun = time.thread_time()
        return is_mine

    def timed_release(self: FairLock) -> None:
        if self is lock and self._depth == 1:
            seconds.append(time.thread_time() - begun)
        release(self)

    with (
        mock.patch.object(FairLock, "acquire", timed_acquire),
        mock.patch.object(FairLock, "release", timed_release),
        mock.patch.object(FairLock, "is_wanted", True),
    ):
        yield seconds
