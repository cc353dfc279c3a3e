"""The parts of the table of live audiences that need no service: an engine with a clock that is set."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.criteria.model import EventType
from engine.event_columns import EventColumns, TextColumn
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND
from milepost.v1 import audience_pb2
from tests.bench.figures import Figure, quantile
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did

REAL = audience_pb2.SIZE_KIND_REAL
ROUNDS = 50
CHECKS_MIN = 2_000
QUIET_TICKS = 20
JOURNEY_ROUNDS = 12
ROUND_MICROS = MICROS_PER_SECOND // 4
BATCH_EVENTS = 20
MILLIS_A_SECOND = 1_000
MICROS_A_SECOND = 1_000_000
ERASED_AT_ONCE = 10_000
IMPORT_ROWS = 100_000


@contextmanager
def _site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory:
        site = Site(Path(directory) / "store")
        try:
            yield site
        finally:
            site.engine.close()


def _import(site: Site, prefix: str, users: int, name: str, at: int) -> None:
    """One event of each of new users, at one instant."""
    for start in range(0, users, IMPORT_ROWS):
        count = min(IMPORT_ROWS, users - start)
        columns = EventColumns(
            user_ids=TextColumn.of([f"{prefix}{start + n}" for n in range(count)], np.arange(count)),
            inputs=TextColumn.same(WEB, count),
            names=TextColumn.same(name, count),
            type_bytes=bytes([EventType.CUSTOM]) * count,
            time_bytes=np.full(count, at, "<i8").tobytes(),
            attributes=[],
        )
        site.backend.append_columns(ACCOUNT, columns)


def erased_users(erased: int) -> list[Figure]:
    """Processor time of a round that moves one user, after users that were members of nothing were erased."""
    with _site() as site:
        milestone = site.add("m", did("buy", days=30))
        site.connect(milestone)
        site.send([(f"m{number}", "buy") for number in range(1_000)])
        _import(site, "u", erased, "visit", NOW)
        site.engine.live.refresh_all()
        without = _round_millis(site, "before")
        for start in range(0, erased, ERASED_AT_ONCE):
            gone = [f"u{number}" for number in range(start, min(erased, start + ERASED_AT_ONCE))]
            site.backend.erase(ACCOUNT, gone)
        site.engine.live.refresh_all()
        beside = _round_millis(site, "after")
    return [Figure(f"a round that moves one user, {erased:,} erased", beside, "ms CPU", without, "none")]


def _round_millis(site: Site, prefix: str) -> float:
    spent = []
    for number in range(ROUNDS):
        site.send([(f"{prefix}{number}", "buy")])
        began = time.process_time()
        site.engine.live.refresh_all()
        spent.append(time.process_time() - began)
    return quantile(sorted(spent), 0.5) * MILLIS_A_SECOND


# --- many journeys ------------------------------------------------------------------------------------------


def _add_journeys(site: Site, journeys: int) -> list[Milestone]:
    """Journeys of one audience each, who bought in about thirty days."""
    milestones = []
    for number in range(journeys):
        site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
        milestone = site.add("m", did("buy", days=30), journey=f"{ACCOUNT}/journeys/j{number}")
        site.connect(milestone, f"c{number}")
        milestones.append(milestone)
    return milestones


def many_journeys(journeys: int, users: int) -> list[Figure]:
    """Processor time of a round in which new users enter every audience, and of their events."""
    rounds, events = [], []
    with _site() as site:
        _add_journeys(site, journeys)
        for number in range(JOURNEY_ROUNDS):
            began = time.process_time()
            for start in range(0, users if number > 1 else 0, BATCH_EVENTS):
                new = [(f"u{number}-{start + n}", "buy") for n in range(BATCH_EVENTS)]
                site.send(new, time=site.clock.now)
            sent = time.process_time()
            site.engine.live.refresh_all()
            events.append((sent - began) / users)
            rounds.append(time.process_time() - sent)
            site.clock.now += ROUND_MICROS
    # The first two calculate the audiences and look ahead.
    spent, cost = (quantile(sorted(found[2:]), 0.5) for found in (rounds, events))
    return [
        Figure(f"a round of {journeys} journeys, {users} new users", spent * MILLIS_A_SECOND, "ms CPU"),
        Figure(f"an event of a new user, {BATCH_EVENTS} at once", cost * MICROS_A_SECOND, "µs CPU"),
    ]


def leaving(journeys: int, users: int) -> list[Figure]:
    """Processor time of a round in which time moves users out of every audience, a quarter of those of a
    second.
    """
    spent = []
    with _site() as site:
        milestones = _add_journeys(site, journeys)
        first = NOW - 30 * MICROS_PER_DAY + 1
        for number in range(JOURNEY_ROUNDS):
            at = first + number * ROUND_MICROS
            _import(site, f"u{number}-", users * ROUND_MICROS // MICROS_PER_SECOND, "buy", at)
        site.engine.live.refresh_all()
        for _ in range(JOURNEY_ROUNDS):
            began = time.process_time()
            site.engine.live.refresh_all()
            spent.append(time.process_time() - began)
            site.clock.now += ROUND_MICROS
        membership = site.backend.membership(milestones[-1].audience)
        assert membership is not None
        assert membership.exited_total
    figure = sum(spent[1:]) / len(spent[1:]) * MILLIS_A_SECOND
    return [Figure(f"a round of {journeys} journeys, {users} users leave in a second", figure, "ms CPU")]


class _Checking:
    """Checks one after another, in a thread of its own."""

    def __init__(self, site: Site, audience: str) -> None:
        self._site, self._audience = site, audience
        self._ended = threading.Event()
        self._seconds: list[float] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Checking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set() or len(self._seconds) < CHECKS_MIN:
            began = time.perf_counter()
            self._site.engine.members.check(self._audience, f"u{len(self._seconds) % 1_000}")
            self._seconds.append(time.perf_counter() - began)

    def p99_millis(self) -> float:
        """The 99th percentile of the latency."""
        return quantile(sorted(self._seconds), 0.99) * MILLIS_A_SECOND


def tick(users: int) -> list[Figure]:
    """A round in which a window leaves all these users at once, after quiet ones, a second each; checks
    meanwhile.
    """
    with _site() as site:
        left = NOW + (QUIET_TICKS + 2) * MICROS_PER_SECOND
        _import(site, "u", users, "buy", left - 30 * MICROS_PER_DAY)
        milestone = site.add("m", did("buy", days=30))
        site.connect(milestone)
        site.engine.live.refresh_all()
        site.clock.now += MICROS_PER_SECOND
        site.engine.live.refresh_all()
        with _Checking(site, milestone.audience) as idle:
            quiet = _quiet_millis(site)
        site.clock.now = left
        with _Checking(site, milestone.audience) as busy:
            began = time.perf_counter()
            site.engine.live.refresh_all()
            moved = (time.perf_counter() - began) * MILLIS_A_SECOND
        membership = site.backend.membership(milestone.audience)
        assert membership is not None
        assert membership.exited_total == users
    return [
        Figure(f"a tick that moves no one, {users:,} users", quiet, "ms CPU"),
        Figure(f"a tick that moves {users:,} users", moved, "ms"),
        Figure("checks during that tick, p99", busy.p99_millis(), "ms", idle.p99_millis(), "idle"),
    ]


def _quiet_millis(site: Site) -> float:
    spent = []
    for _ in range(QUIET_TICKS):
        site.clock.now += MICROS_PER_SECOND
        began = time.thread_time()
        site.engine.live.refresh_all()
        spent.append(time.thread_time() - began)
    return quantile(sorted(spent), 0.5) * MILLIS_A_SECOND
