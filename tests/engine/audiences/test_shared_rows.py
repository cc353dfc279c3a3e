"""A round finds the rows of the same few users once for all journeys; each counts those of its own window."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.backends.local.events import SharedRows, shared_time
from engine.criteria.model import Between, BetweenAgo, Criterion, Event, Last, Range
from engine.criteria.ranges import TimeRange
from engine.resources.records import Journey, Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, Micros
from tests.engine.site import ACCOUNT, NOW, Site, event

JOURNEYS = 12
USERS = [f"u{number}" for number in range(60)]
ROUNDS = 25


class Counted:
    """A count of "buy" within a window, and the same count over a list of events."""

    def __init__(self, source: random.Random) -> None:
        days = source.choice((1, 2, 3, 9, 16, 30))
        older, at_least = source.choice((0, days // 2)), source.choice((1, 1, 2, 4))
        self._ages = days * MICROS_PER_DAY, older * MICROS_PER_DAY
        self._range = (NOW - 5 * MICROS_PER_DAY, NOW + MICROS_PER_DAY) if source.random() < 0.2 else None
        self._at_least = at_least

    def criterion(self) -> Criterion:
        long, short = self._ages
        window: Last | BetweenAgo | Range = Last(duration=long)
        if self._range is not None:
            window = Range(start=self._range[0], end=self._range[1])
        elif short:
            window = BetweenAgo(from_=long, to=short)
        return Event(name="buy", window=window, test=Between(float(self._at_least), 1e9))

    def members(self, events: list[tuple[str, Micros]], now: Micros) -> set[str]:
        """Who has that many events at an instant."""
        long, short = self._ages
        if self._range is not None:
            start, end = self._range
            inside = [user for user, time in events if start <= time < end]
        else:
            inside = [user for user, time in events if now - long < time <= now - short]
        return {user for user in inside if inside.count(user) >= self._at_least}


def counting(function: Callable[..., Any], calls: Counter[str]) -> Callable[..., Any]:
    """The function, which counts its calls."""

    def called(*arguments: object) -> object:
        calls[function.__name__] += 1
        return function(*arguments)

    return called


def add(site: Site, number: int, counted: Counted) -> Milestone:
    journey = f"{ACCOUNT}/journeys/j{number}"
    site.engine.journeys.create_journey(ACCOUNT, f"j{number}", Journey(name=""))
    milestone = site.add("m", counted.criterion(), journey=journey)
    site.connect(milestone, f"c{number}")
    return milestone


def test_each_journey_counts_the_rows_of_its_own_window(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(str(pytestconfig.getoption("--hypothesis-seed")))
    site = Site(tmp_path / "store")
    calls = Counter[str]()
    for owner, method in ((SharedRows, "joined"), (SharedRows, "passing")):
        monkeypatch.setattr(owner, method, counting(getattr(owner, method), calls))
    events: list[tuple[str, Micros]] = []

    def send(count: int) -> None:
        batch = [
            (source.choice(USERS), site.clock.now - source.randrange(35 * MICROS_PER_DAY))
            for _ in range(count)
        ]
        site.engine.ingest.events(ACCOUNT, [event(user, "buy", time=time) for user, time in batch])
        events.extend(batch)

    send(300)
    counted = [Counted(source) for _ in range(JOURNEYS)]
    milestones = [add(site, number, each) for number, each in enumerate(counted)]
    site.engine.live.refresh_all()
    calls.clear()
    for number in range(ROUNDS):
        site.clock.now += source.choice((0, 1, MICROS_PER_HOUR, MICROS_PER_DAY))
        send(source.randint(0, 8))
        if number % 6 == 5:
            gone = source.choice(USERS)
            site.backend.erase(ACCOUNT, [gone])
            events = [(user, time) for user, time in events if user != gone]
        site.engine.live.refresh_all()
        for milestone, each in zip(milestones, counted, strict=True):
            assert site.stored(milestone) == each.members(events, site.clock.now), number
    # Windows of about the same length share what was found.
    assert 0 < 2 * calls["joined"] <= calls["passing"]


def test_one_range_of_time_holds_many_windows() -> None:
    windows = [TimeRange(NOW - days * MICROS_PER_DAY, NOW) for days in range(17, 33)]
    shared = {shared_time(each, NOW) for each in windows}
    assert len(shared) <= 2
    for days in range(400):
        window = TimeRange(NOW - days * MICROS_PER_DAY - 7, NOW)
        wider = shared_time(window, NOW)
        assert wider.start is not None
        assert window.start is not None
        assert wider.end is None
        assert window.start - 4 * (days + 1) * MICROS_PER_DAY <= wider.start <= window.start
    assert shared_time(TimeRange(None, NOW), NOW) == TimeRange(None, None)
