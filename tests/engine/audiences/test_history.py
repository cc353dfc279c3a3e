"""Size histories: when periods close, and that they stay bounded."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import msgspec
import pytest

from engine import Engine
from engine.audiences.history import DAYS_KEPT, HOURS_KEPT, TICKS_KEPT, Rolled, SizeHistory, _Stored
from engine.audiences.live.refreshing import history_times
from engine.audiences.model import SizeInterval, SizePoint
from engine.backends.base import Membership
from engine.backends.registry import open_backend
from engine.clock import Clock
from engine.criteria.zones import load_zone
from engine.resources.records import Account
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND
from tests.engine.machine import Machine
from tests.engine.site import ACCOUNT, NOW, Site, did

DAY, HOUR = MICROS_PER_DAY, MICROS_PER_HOUR
UTC = load_zone("UTC")


def membership(size: int, entered: int, exited: int) -> Membership:
    return Membership(
        size=size,
        as_of=0,
        revision=0,
        first_sequence=1,
        last_sequence=entered + exited,
        entered_total=entered,
        exited_total=exited,
    )


def test_sizes_by_hour_and_day_with_added_and_dropped(site: Site) -> None:
    site.send([("u1", "a"), ("u2", "a")], time=NOW - 5 * DAY)
    milestone = site.add("one", did("a", days=7))
    site.connect(milestone)
    site.engine.live.refresh_all()
    # 1. Those who were in from the start were not added.
    hours = site.engine.sizes.history(milestone.audience, SizeInterval.HOUR).items
    assert hours == (SizePoint(NOW, 2, 0, 0),)
    # 2. Two come in the first hour, one in the second.
    site.send([("u3", "a"), ("u4", "a")])
    site.engine.live.refresh_all()
    site.clock.now = NOW + HOUR
    site.send([("u5", "a")], time=site.clock.now)
    site.engine.live.refresh_all()
    # 3. Two days later the window of the first two has run out.
    site.clock.now = NOW + 2 * DAY + MICROS_PER_SECOND
    site.engine.live.refresh_all()
    hours = site.engine.sizes.history(milestone.audience, SizeInterval.HOUR).items
    quiet = tuple(SizePoint(NOW + hour * HOUR, 5, 0, 0) for hour in range(47, 1, -1))
    assert hours == (
        SizePoint(NOW + 2 * DAY, 3, 0, 2),
        *quiet,
        SizePoint(NOW + HOUR, 5, 1, 0),
        SizePoint(NOW, 4, 2, 0),
    )
    midnight = NOW - 12 * HOUR
    days = site.engine.sizes.history(milestone.audience).items
    assert days == (
        SizePoint(midnight + 2 * DAY, 3, 0, 2),
        SizePoint(midnight + DAY, 5, 0, 0),
        SizePoint(midnight, 5, 3, 0),
    )
    first = site.engine.sizes.history(milestone.audience, SizeInterval.HOUR, page_size=2)
    rest = site.engine.sizes.history(milestone.audience, SizeInterval.HOUR, page_token=first.next_page_token)
    assert (*first.items, *rest.items) == hours


def test_days_follow_the_accounts_time_zone(site: Site) -> None:
    site.engine.accounts.update_account(Account(name=ACCOUNT, time_zone="Asia/Kolkata"), {"time_zone"})
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    # 12:00 UTC is 17:30 in Kolkata: the day began at 18:30 UTC the evening before.
    (day,) = site.engine.sizes.history(milestone.audience).items
    assert day.start == NOW - 17 * HOUR - HOUR // 2


def test_quiet_periods_have_points_before_anything_happens(site: Site) -> None:
    """No user has entered or left for three hours, across midnight."""
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.send([("u1", "a")])
    site.engine.live.refresh_all()
    site.clock.now = NOW + 3 * HOUR + 1
    hours = site.engine.sizes.history(milestone.audience, SizeInterval.HOUR).items
    assert hours == tuple(SizePoint(NOW + hour * HOUR, 1, 0, 0) for hour in (3, 2, 1, 0))
    site.clock.now = NOW + 13 * HOUR
    midnight = NOW - 12 * HOUR
    days = site.engine.sizes.history(milestone.audience).items
    assert days == (SizePoint(midnight + DAY, 1, 0, 0), SizePoint(midnight, 1, 0, 0))


@pytest.mark.parametrize("zone_name", ["UTC", "Asia/Kolkata", "America/Sao_Paulo", "Pacific/Apia"])
def test_quiet_days_follow_the_time_zone(site: Site, zone_name: str) -> None:
    """Also where clocks change at midnight, and where a day was left out (Apia, 2011-12-30)."""
    zone = load_zone(zone_name)
    history = SizeHistory(site.backend.documents)
    audience = f"{ACCOUNT}/audiences/x"
    begun = 1_316_000_000 * MICROS_PER_SECOND
    history.begin([Rolled(audience, membership(3, 3, 0), zone)], begun)
    end = begun + 150 * DAY
    points = history.points(audience, SizeInterval.DAY, membership(3, 3, 0), end, zone)
    starts = [dt.datetime.fromtimestamp(point.start / MICROS_PER_SECOND, zone) for point in points]
    first, last = (dt.datetime.fromtimestamp(at / MICROS_PER_SECOND, zone).date() for at in (begun, end))
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    assert [point.users for point in points] == [3] * len(points)
    assert [at.date() for at in starts] == sorted({at.date() for at in starts})
    missing = set(days) - {at.date() for at in starts}
    assert missing == ({dt.date(2011, 12, 30)} if zone_name == "Pacific/Apia" else set())
    assert all(at.hour <= 1 for at in starts)


def test_last_day_figures_exclude_older_changes(site: Site) -> None:
    milestone = site.add("one", did("a"))
    site.connect(milestone)
    site.engine.live.refresh_all()
    site.send([("u1", "a")])
    site.engine.live.refresh_all()
    site.clock.now = NOW + DAY - HOUR
    site.send([("u2", "a")])
    site.engine.live.refresh_all()
    assert site.engine.sizes.shown(milestone.audience).added_last_day == 2
    site.clock.now = NOW + DAY + HOUR
    site.engine.live.refresh_all()
    assert site.engine.sizes.shown(milestone.audience).added_last_day == 1


def test_history_restarts_after_a_break_and_keeps_old_points(site: Site) -> None:
    milestone = site.add("one", did("a"))
    connection = site.connect(milestone)
    site.engine.live.refresh_all()
    site.send([("u1", "a")])
    site.engine.live.refresh_all()
    site.clock.now = NOW + HOUR
    site.send([("u2", "a")])
    site.engine.live.refresh_all()
    site.engine.connections.deactivate(connection.name)
    site.engine.live.refresh_all()
    assert site.engine.sizes.history(milestone.audience, SizeInterval.HOUR).items == (
        SizePoint(NOW, 1, 1, 0),
    )
    site.clock.now = NOW + 5 * HOUR
    site.engine.connections.activate(connection.name)
    site.engine.live.refresh_all()
    assert site.engine.sizes.history(milestone.audience, SizeInterval.HOUR).items == (
        SizePoint(NOW + 5 * HOUR, 2, 0, 0),
        SizePoint(NOW, 1, 1, 0),
    )


def test_never_calculated_audience_has_no_history(site: Site) -> None:
    milestone = site.add("one", did("a"))
    assert site.engine.sizes.history(milestone.audience).items == ()


def test_history_stays_bounded(site: Site) -> None:
    history = SizeHistory(site.backend.documents)
    audience = f"{ACCOUNT}/audiences/x"
    history.begin([Rolled(audience, membership(0, 0, 0), UTC)], NOW)
    for day in range(1, DAYS_KEPT + 10):
        history.roll([Rolled(audience, membership(day, day, 0), UTC)], NOW + day * DAY)
    document = site.backend.documents.get(f"sizes/{audience}")
    assert document is not None
    stored = msgspec.msgpack.decode(document, type=_Stored)
    kept = [len(series.points) for series in (stored.ticks, stored.hours, stored.days)]
    assert kept == [TICKS_KEPT, HOURS_KEPT, DAYS_KEPT]
    assert len(document) < 20_000


def test_clock_that_goes_back_undoes_future_periods(site: Site) -> None:
    history = SizeHistory(site.backend.documents)
    history.begin([Rolled("x", membership(2, 0, 0), UTC)], NOW)
    history.roll([Rolled("x", membership(5, 3, 0), UTC)], NOW + HOUR)
    # 1. Years ahead everyone leaves, and points are made of hours that are yet to come.
    history.roll([Rolled("x", membership(0, 3, 5), UTC)], NOW + 400 * DAY, NOW + HOUR)
    history.roll([Rolled("x", membership(0, 3, 5), UTC)], NOW + 401 * DAY, NOW + HOUR)
    # 2. Back again: what happened meanwhile happened in this hour.
    right = membership(5, 8, 5)
    history.roll([Rolled("x", right, UTC)], NOW + HOUR)
    assert history.points("x", SizeInterval.HOUR, right, NOW + HOUR, UTC) == (
        SizePoint(NOW, 5, 3, 0),
        SizePoint(NOW + HOUR, 5, 5, 5),
    )
    assert history.last_day("x", right, NOW + HOUR) == (8, 5)
    # 3. It goes on as ever.
    later = membership(6, 9, 5)
    history.roll([Rolled("x", later, UTC)], NOW + 2 * HOUR)
    assert history.points("x", SizeInterval.HOUR, later, NOW + 2 * HOUR, UTC)[1:] == (
        SizePoint(NOW + HOUR, 6, 6, 5),
        SizePoint(NOW + 2 * HOUR, 6, 0, 0),
    )


@pytest.mark.parametrize("jump", [400 * DAY, -400 * DAY])
def test_wrong_clock_displaces_no_point(tmp_path: Path, jump: int) -> None:
    machine = Machine(NOW)
    clock = Clock(machine.wall, machine.monotonic, follow_after=0, trusted_at_start=True)
    engine = Engine(open_backend(f"local:{tmp_path / 'store'}", clock=clock.stamp), clock=clock)
    history = SizeHistory(engine.backend.documents)

    def roll(size: int) -> None:
        now, settled = history_times(clock, clock.now())
        history.roll([Rolled("x", membership(size, size, 0), UTC)], now, settled)

    for day in range(5):
        roll(day)
        machine.pass_time(DAY)
    roll(5)
    before = history.points("x", SizeInterval.DAY, membership(5, 5, 0), machine.real, UTC)
    machine.jump(jump)
    for _ in range(3):
        roll(5)
        machine.pass_time(HOUR // 2)
    machine.jump(-jump)
    roll(5)
    assert history.points("x", SizeInterval.DAY, membership(5, 5, 0), machine.real, UTC) == before
    assert len(before) == 6
    engine.close()
