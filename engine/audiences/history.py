"""Size histories of calculated audiences, bounded in space.

One document for each audience holds a point for every closed period of three lengths: ticks of ten minutes
for slightly more than a day (the figures of the last 24 hours), hours, and days in the account's time zone.
Added and dropped are differences of the membership's totals, taken when a period closes, so changes are not
counted one by one and a crash loses nothing. A period without changes has a point too.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from engine.audiences.model import SizeInterval, SizePoint
from engine.backends.base import Documents, Membership
from engine.criteria.zones import day_of, start_of_day
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

TICK_MICROS = 600 * MICROS_PER_SECOND
TICKS_KEPT = 150
HOURS_KEPT = 14 * 24
DAYS_KEPT = 400


class Period(Enum):
    """A period length: its duration (for days: approximate) and the number of points kept."""

    TICK = (TICK_MICROS, TICKS_KEPT)
    HOUR = (MICROS_PER_HOUR, HOURS_KEPT)
    DAY = (MICROS_PER_DAY, DAYS_KEPT)

    def __init__(self, length: Micros, points_kept: int) -> None:
        self.length = length
        self.points_kept = points_kept


_PREFIX = "sizes/"


class _Series(msgspec.Struct, array_like=True):
    """Closed periods, oldest first, and the open one: its start and the totals at that time."""

    start: Micros
    entered_total: int
    exited_total: int
    points: list[SizePoint] = []


class _Stored(msgspec.Struct, array_like=True):
    """The series of one audience, all opened at the same membership."""

    ticks: _Series
    hours: _Series
    days: _Series


class Rolled(NamedTuple):
    """An audience to roll, its membership, and the time zone of its account."""

    audience: str
    membership: Membership
    zone: ZoneInfo


class SizeHistory:
    """Reads and writes the histories. At most one writer for each audience."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._cached: dict[str, _Stored] = {}

    def begin(self, audiences: Iterable[Rolled], now: Micros) -> None:
        """Called when memberships have been calculated for the first time: their first members do not count
        as added. All in one transaction.
        """
        self._put({each.audience: self._begun(each, _starts(now, each.zone)) for each in audiences})

    def _begun(self, each: Rolled, starts: tuple[Micros, Micros, Micros]) -> _Stored:
        totals = each.membership.entered_total, each.membership.exited_total
        series = []
        for start, old in zip(starts, _series_of(self._find(each.audience)), strict=True):
            points = [] if old is None else [p for p in old.points if p.start != start]
            series.append(_Series(start, *totals, points))
        return _Stored(*series)

    def roll(self, audiences: Iterable[Rolled], now: Micros, settled: Micros | None = None) -> None:
        """Closes the periods of audiences that ended before `now` with the current totals, all in one
        transaction. When the clock went back, periods after `now` are undone. Periods after `settled`
        (`engine.clock`; None = `now`) may be the result of a wrong clock and displace no others.
        """
        changed = {}
        starts = functools.cache(functools.partial(_starts, now))
        for each in audiences:
            audience, membership, zone = each
            stored = self._find(audience)
            if stored is None:
                changed[audience] = self._begun(each, starts(zone))
                continue
            if (stored.ticks.start, stored.hours.start, stored.days.start) == starts(zone):
                continue
            rolled = [
                _rolled(series, start, membership, period, zone, now if settled is None else settled)
                for series, start, period in zip(_open(stored), starts(zone), Period, strict=True)
            ]
            changed[audience] = _Stored(*rolled)
        if changed:
            self._put(changed)

    def last_day(self, audience: str, membership: Membership, now: Micros) -> tuple[int, int]:
        """Users added and dropped in the last 24 hours, to within ten minutes."""
        stored = self._find(audience)
        if stored is None:
            return 0, 0
        recent = [p for p in _with_open(stored.ticks, membership) if p.start > now - MICROS_PER_DAY]
        return sum(p.added for p in recent), sum(p.dropped for p in recent)

    def points(
        self,
        audience: str,
        interval: SizeInterval,
        membership: Membership | None,
        now: Micros,
        zone: ZoneInfo,
    ) -> tuple[SizePoint, ...]:
        """All points, oldest first; the last is the current period while the audience is calculated."""
        stored = self._find(audience)
        if stored is None:
            return ()
        if interval is SizeInterval.HOUR:
            series, period, start = stored.hours, Period.HOUR, _starts(now, zone)[1]
        else:
            series, period, start = stored.days, Period.DAY, _starts(now, zone)[2]
        if membership is None:
            return tuple(series.points)
        return tuple(_with_open(_rolled(series, start, membership, period, zone, now), membership))

    def forget(self, audience: str) -> None:
        """Removes the audience's history."""
        self._documents.commit({}, [_PREFIX + audience])
        self._cached.pop(audience, None)

    def _find(self, audience: str) -> _Stored | None:
        found = self._cached.get(audience)
        if found is None:
            document = self._documents.get(_PREFIX + audience)
            if document is None:
                return None
            found = self._cached[audience] = msgspec.msgpack.decode(document, type=_Stored)
        return found

    def _put(self, changed: Mapping[str, _Stored]) -> None:
        self._documents.commit(
            {_PREFIX + audience: msgspec.msgpack.encode(stored) for audience, stored in changed.items()}
        )
        self._cached.update(changed)


def _open(stored: _Stored) -> tuple[_Series, _Series, _Series]:
    return stored.ticks, stored.hours, stored.days


def _series_of(stored: _Stored | None) -> tuple[_Series | None, _Series | None, _Series | None]:
    return (None, None, None) if stored is None else _open(stored)


def _starts(now: Micros, zone: ZoneInfo) -> tuple[Micros, Micros, Micros]:
    """The start of the tick, hour and day that contain `now`."""
    midnight = start_of_day(day_of(now, zone), zone)
    return now - now % TICK_MICROS, now - now % MICROS_PER_HOUR, midnight


def _rolled(
    series: _Series,
    start: Micros,
    membership: Membership,
    period: Period,
    zone: ZoneInfo,
    settled: Micros,
) -> _Series:
    """The series with the period that begins at `start` open. Every change is rolled first, so all changes
    since the last roll belong to the period that was open then, and later periods had none.
    """
    if start == series.start:
        return series
    if start < series.start:
        return _taken_back(series, start)
    quiet = (SizePoint(at, membership.size, 0, 0) for at in _between(series.start, start, period, zone))
    points = [*series.points, _open_point(series, membership), *quiet]
    ahead = bisect.bisect_right(points, settled, key=lambda point: point.start)
    points = [*points[:ahead][-period.points_kept :], *points[ahead:][-period.points_kept :]]
    return _Series(start, membership.entered_total, membership.exited_total, points)


def _taken_back(series: _Series, start: Micros) -> _Series:
    """Undoes the periods after a clock that went back: their changes count in the period that is open now."""
    kept = [point for point in series.points if point.start < start]
    undone = [point for point in series.points if point.start >= start]
    return _Series(
        start,
        series.entered_total - sum(point.added for point in undone),
        series.exited_total - sum(point.dropped for point in undone),
        kept,
    )


def _between(start: Micros, end: Micros, period: Period, zone: ZoneInfo) -> Iterator[Micros]:
    """The starts of the periods between two instants, at most the latest that are kept."""
    if period is Period.DAY:
        first, last = day_of(start, zone), day_of(end, zone)
        for day in range(max(first + 1, last - period.points_kept), last):
            midnight = start_of_day(day, zone)
            # A zone that moved across the date line skipped a day.
            if day_of(midnight, zone) == day:
                yield midnight
    else:
        earliest = max(start + period.length, end - period.points_kept * period.length)
        yield from range(earliest, end, period.length)


def _open_point(series: _Series, membership: Membership) -> SizePoint:
    return SizePoint(
        series.start,
        membership.size,
        max(0, membership.entered_total - series.entered_total),
        max(0, membership.exited_total - series.exited_total),
    )


def _with_open(series: _Series, membership: Membership) -> Iterator[SizePoint]:
    yield from series.points
    yield _open_point(series, membership)
