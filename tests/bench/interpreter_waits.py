"""How long a thread waits for the interpreter beside loops of long work in the engine.

A thread that sleeps for a moment, again and again, wakes up late by as long as the others keep the
interpreter. That is not only the time that one of them computes for: who gives it up and takes it again, as
LMDB does for each key, wakes up a waiting thread and leaves it nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine import Engine
from engine.audiences.model import SavedTarget
from engine.backends.base import upkeep_of
from engine.values import MICROS_PER_SECOND, Micros
from service.interpreter import share_interpreter
from tests.bench.figures import quantile
from tests.bench.marketing_world import JOURNEY, NOW
from tests.bench.sizes import LAST_ID

NAME = f"{JOURNEY}/milestones/{LAST_ID}"
SLEEP_SECONDS = 0.0005
WARM_UP_SECONDS = 0.3


@dataclass(frozen=True)
class Wait:
    """Beside what, and how late the thread woke up, in milliseconds."""

    what: str
    p50_ms: float
    p90_ms: float
    p99_ms: float


def measure(engine: Engine, seconds: float) -> list[Wait]:
    """Beside nothing, and beside each kind of long work for some seconds. Threads share the interpreter as in
    a service, from now on.
    """
    share_interpreter()
    upkeep = upkeep_of(engine.backend)

    def export(at: Micros) -> None:
        for _ in engine.members.export(NAME, as_of=at):
            pass

    def verify(_at: Micros) -> None:
        for _ in upkeep.verify():
            pass

    work: dict[str, Callable[[Micros], object]] = {
        "nothing": lambda at: time.sleep(SLEEP_SECONDS),
        "Python that computes": lambda at: sum(range(10_000)),
        "counts": lambda at: engine.sizes.count(NAME, as_of=at),
        "estimates": lambda at: engine.sizes.estimate(SavedTarget(NAME), as_of=at),
        "exports": export,
        "verifications": verify,
    }
    return [_beside(what, run, seconds) for what, run in work.items()]


def _beside(what: str, run: Callable[[Micros], object], seconds: float) -> Wait:
    ended = threading.Event()

    def loop() -> None:
        at = NOW
        while not ended.is_set():
            at += MICROS_PER_SECOND
            run(at)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        _late_by(WARM_UP_SECONDS)
        late = sorted(_late_by(seconds))
    finally:
        ended.set()
        thread.join()
    return Wait(what, *(quantile(late, share) * 1_000 for share in (0.5, 0.9, 0.99)))


def _late_by(seconds: float) -> list[float]:
    late = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        time.sleep(SLEEP_SECONDS)
        late.append(time.perf_counter() - began - SLEEP_SECONDS)
    return late
