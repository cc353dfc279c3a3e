"""How the sizes of calculated audiences went, bounded in space.

For each audience one document holds a point for every closed period of three lengths: ticks of ten minutes
for a bit over a day (the figures of the last 24 hours), hours, and days of the account's time zone. Added and
dropped are differences of the membership's totals, taken when a period closes, so that nothing has to be
counted change by change and nothing is lost by a crash. A period in which nothing changed has its point too.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from enum import Enum
from zoneinfo import ZoneInfo

import msgspec

from engine.audiences.model import SizeInterval, SizePoint
from engine.backends.base import Documents, Membership
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

TICK_MICROS = 600 * MICROS_PER_SECOND
TICKS_KEPT = 150
HOURS_KEPT = 14 * 24
DAYS_KEPT = 400


class Period(Enum):
    """What is kept a point for: how long one lasts (a day: about) and how many of them there are."""

    TICK = (TICK_MICROS, TICKS_KEPT)
    HOUR = (MICROS_PER_HOUR, HOURS_KEPT)
    DAY = (MICROS_PER_DAY, DAYS_KEPT)

    def __init__(self, length: Micros, points_kept: int) -> None:
        self.length = length
        self.points_kept = points_kept


_EPOCH = datetime(1970, 1, 1, tzinfo=ZoneInfo("UTC"))
_PREFIX = "sizes/"


class _Series(msgspec.Struct, array_like=True):
    """Closed periods, oldest first, and where the open one began: its start and the totals then."""

    start: Micros
    entered_total: int
    exited_total: int
    points: list[SizePoint] = []


class _Stored(msgspec.Struct, array_like=True):
    """The series of one audience; all three open at the same membership."""

    ticks: _Series
    hours: _Series
    days: _Series


class SizeHistory:
    """Reads and writes the histories. One writer for each audience at a time."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._cached: dict[str, _Stored] = {}

    def begin(self, audience: str, membership: Membership, now: Micros, zone: ZoneInfo) -> None:
        """The membership has been calculated for the first time (again): its first members are not added."""
        before = self._find(audience)
        starts = _starts(now, zone)
        series = []
        for start, old in zip(starts, _series_of(before), strict=True):
            points = [] if old is None else [p for p in old.points if p.start != start]
            series.append(_Series(start, membership.entered_total, membership.exited_total, points))
        self._put(audience, _Stored(*series))

    def roll(
        self,
        audience: str,
        membership: Membership,
        now: Micros,
        zone: ZoneInfo,
        settled: Micros | None = None,
    ) -> None:
        """Closes the periods that ended before `now` at the membership as it stands, if any did. When the
        clock went back, periods after `now` are undone. Those after `settled` (`engine.clock`; None = `now`),
        which may never come, push none before it out.
        """
        stored = self._find(audience)
        if stored is None:
            self.begin(audience, membership, now, zone)
            return
        rolled = [
            _rolled(series, start, membership, period, zone, now if settled is None else settled)
            for series, start, period in zip(_open(stored), _starts(now, zone), Period, strict=True)
        ]
        if any(new is not old for new, old in zip(rolled, _open(stored), strict=True)):
            self._put(audience, _Stored(*rolled))

    def last_day(self, audience: str, membership: Membership, now: Micros) -> tuple[int, int]:
        """Users added and dropped in the last 24 hours, to the ten minutes."""
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
        """Every point kept, oldest first; the last is the period under way while the audience is
        calculated.
        """
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
        """The audience is deleted."""
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

    def _put(self, audience: str, stored: _Stored) -> None:
        self._documents.commit({_PREFIX + audience: msgspec.msgpack.encode(stored)})
        self._cached[audience] = stored


def _open(stored: _Stored) -> tuple[_Series, _Series, _Series]:
    return stored.ticks, stored.hours, stored.days


def _series_of(stored: _Stored | None) -> tuple[_Series | None, _Series | None, _Series | None]:
    return (None, None, None) if stored is None else _open(stored)


def _starts(now: Micros, zone: ZoneInfo) -> tuple[Micros, Micros, Micros]:
    """When the tick, hour and day that `now` lies in began."""
    midnight = _midnight(_local(now, zone).date(), zone)
    return now - now % TICK_MICROS, now - now % MICROS_PER_HOUR, midnight


def _local(instant: Micros, zone: ZoneInfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=instant)).astimezone(zone)


def _midnight(day: date, zone: ZoneInfo) -> Micros:
    """The first instant of a day of the zone's."""
    return (datetime.combine(day, time(), tzinfo=zone) - _EPOCH) // timedelta(microseconds=1)


def _rolled(
    series: _Series,
    start: Micros,
    membership: Membership,
    period: Period,
    zone: ZoneInfo,
    settled: Micros,
) -> _Series:
    """The series with the period that begins at `start` open. Whatever changed since the last roll did so in
    the period that was open then, because each change is rolled first: later ones were quiet.
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
    """The clock went back, so periods that it was ahead in never were: what came and went in them belongs to
    the one that is open now.
    """
    kept = [point for point in series.points if point.start < start]
    undone = [point for point in series.points if point.start >= start]
    return _Series(
        start,
        series.entered_total - sum(point.added for point in undone),
        series.exited_total - sum(point.dropped for point in undone),
        kept,
    )


def _between(start: Micros, end: Micros, period: Period, zone: ZoneInfo) -> Iterator[Micros]:
    """Where the periods between two of them begin, no more of the latest than are kept."""
    if period is Period.DAY:
        first, last = _local(start, zone).date(), _local(end, zone).date()
        for days in range(min((last - first).days, period.points_kept + 1) - 1, 0, -1):
            day = last - timedelta(days=days)
            midnight = _midnight(day, zone)
            # A zone that moved across the date line has left out a day.
            if _local(midnight, zone).date() == day:
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
