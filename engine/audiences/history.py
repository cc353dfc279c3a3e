"""How the sizes of calculated audiences went, bounded in space.

For each audience one document holds a point for every closed period of three lengths: ticks of ten minutes
for a bit over a day (the figures of the last 24 hours), hours, and days of the account's time zone. Added and
dropped are differences of the membership's totals, taken when a period closes, so that nothing has to be
counted change by change and nothing is lost by a crash.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from engine.audiences.model import SizeInterval, SizePoint
from engine.backend import Documents, Membership
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

TICK_MICROS = 600 * MICROS_PER_SECOND
TICKS_KEPT = 150
HOURS_KEPT = 14 * 24
DAYS_KEPT = 400

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

    def roll(self, audience: str, membership: Membership, now: Micros, zone: ZoneInfo) -> None:
        """Closes the periods that ended before `now` at the membership as it stands, if any did. When the
        clock went back, periods after `now` are undone.
        """
        stored = self._find(audience)
        if stored is None:
            self.begin(audience, membership, now, zone)
            return
        kept = (TICKS_KEPT, HOURS_KEPT, DAYS_KEPT)
        rolled = [
            _rolled(series, start, membership, points_max)
            for series, start, points_max in zip(_open(stored), _starts(now, zone), kept, strict=True)
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
        self, audience: str, interval: SizeInterval, membership: Membership | None
    ) -> tuple[SizePoint, ...]:
        """Every point kept, oldest first; the last is the period under way while the audience is
        calculated.
        """
        stored = self._find(audience)
        if stored is None:
            return ()
        series = stored.hours if interval is SizeInterval.HOUR else stored.days
        return tuple(series.points if membership is None else _with_open(series, membership))

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
    local = (_EPOCH + timedelta(microseconds=now)).astimezone(zone)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    day = (midnight - _EPOCH) // timedelta(microseconds=1)
    return now - now % TICK_MICROS, now - now % MICROS_PER_HOUR, day


def _rolled(series: _Series, start: Micros, membership: Membership, points_max: int) -> _Series:
    if start == series.start:
        return series
    if start < series.start:
        return _taken_back(series, start)
    points = [*series.points, _open_point(series, membership)][-points_max:]
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
