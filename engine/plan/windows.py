"""Resolves windows into half-open ranges of instants, exact to the microsecond at both ends.

Windows relative to now are (from, to] in the language. Instants are whole microseconds, so that is
[from + 1, to + 1).
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from engine.criteria.model import BetweenAgo, Calendar, CalendarUnit, Last, Range, Window
from engine.criteria.operators.relative_time import last_range
from engine.criteria.ranges import ALL_TIME, TimeRange
from engine.criteria.zones import day_of, load_zone, offsets_between, start_of_day
from engine.plan.tree import Account
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS, Micros

_MONTHS = {CalendarUnit.MONTH: 1, CalendarUnit.QUARTER: 3, CalendarUnit.YEAR: 12}
_DAYS = {CalendarUnit.DAY: 1, CalendarUnit.WEEK: 7}

_HOUR_MICROS_MAX = 2 * MICROS_PER_HOUR
"""No local hour lasts longer."""
_HOURS_MARGIN_MICROS = 4 * MICROS_PER_DAY
"""More than longer hours ever add up to: clocks that are put back are put on again."""


def events_range(window: Window | None, as_of: Micros, account: Account) -> TimeRange:
    """The instants whose events count for a criterion with this window at `as_of`: those in the window and
    within the account's retention, [as_of - retention, ∞).

    So the result does not depend on when events are removed from disk, as long as removal comes after they
    left the retention.
    """
    span = window_range(window, as_of, account.time_zone)
    if not account.event_retention:
        return span
    oldest = as_of - account.event_retention
    return TimeRange(oldest if span.start is None else max(oldest, span.start), span.end)


def window_range(window: Window | None, as_of: Micros, time_zone: str) -> TimeRange:
    """The instants in the window at `as_of`; `time_zone` is the account's, if a calendar window has none."""
    match window:
        case None:
            return ALL_TIME
        case Last():
            return last_range(window.duration, as_of)
        case BetweenAgo():
            return TimeRange(as_of - window.from_ + 1, as_of - window.to + 1)
        case Range():
            return TimeRange(window.start, window.end)
        case Calendar():
            return _calendar_range(window, as_of, load_zone(window.time_zone or time_zone))


def _calendar_range(window: Calendar, as_of: Micros, zone: ZoneInfo) -> TimeRange:
    # A day inside the range of `date`, so that no zone's offset leaves it.
    as_of = min(max(as_of, TIME_MIN_MICROS + MICROS_PER_DAY), TIME_MAX_MICROS - MICROS_PER_DAY)
    first, end = -window.offset - window.count + 1, -window.offset + 1
    if window.unit is CalendarUnit.HOUR:
        return _hours_range(as_of, first, end, zone)
    today = dt.date.fromordinal(day_of(as_of, zone))
    return TimeRange(
        _start_of_unit(window.unit, today, first, zone), _start_of_unit(window.unit, today, end, zone)
    )


def _start_of_unit(unit: CalendarUnit, today: dt.date, steps: int, zone: ZoneInfo) -> Micros:
    """The first instant of the unit that lies `steps` units after the one that contains `today`."""
    if unit in _DAYS:
        first_day = today.toordinal() - (today.weekday() if unit is CalendarUnit.WEEK else 0)
        return start_of_day(first_day + steps * _DAYS[unit], zone)
    length = _MONTHS[unit]
    month = (today.year * 12 + today.month - 1) // length * length + steps * length
    year, month_of_year = divmod(month, 12)
    if year < dt.MINYEAR:
        return TIME_MIN_MICROS
    if year > dt.MAXYEAR:
        return TIME_MAX_MICROS + 1
    return start_of_day(dt.date(year, month_of_year + 1, 1).toordinal(), zone)


def _hours_range(as_of: Micros, first: int, end: int, zone: ZoneInfo) -> TimeRange:
    """From the start of the hour `first` hours after the one that contains `as_of` to that of the hour `end`
    hours after it. Both are negative or zero, `end` at most 1.
    """
    oldest = as_of + (first - 1) * MICROS_PER_HOUR - _HOURS_MARGIN_MICROS
    starts = _HourStarts(oldest, as_of + _HOUR_MICROS_MAX, zone)
    current = starts.count_until(as_of) - 1
    return TimeRange(starts.at(current + first), starts.at(current + end))


class _HourStarts:
    """The starts of the local hours in [oldest, newest), as runs of hours that start 3,600 seconds apart.

    An hour starts where the local clock shows a full hour, and where it jumps over one. So hours last 60
    minutes where clocks change by whole hours at a full hour, and 30 or 90 where they change by 30.
    """

    def __init__(self, oldest: Micros, newest: Micros, zone: ZoneInfo) -> None:
        self._runs: list[tuple[Micros, int]] = []
        changes = offsets_between(zone, oldest, newest)
        untils = [since for since, _ in changes[1:]] + [newest]
        clock_before: Micros | None = None
        for (since, offset), until in zip(changes, untils, strict=True):
            clock = since + offset
            past_full_hour = clock % MICROS_PER_HOUR
            if clock_before is not None and past_full_hour and clock - past_full_hour >= clock_before:
                self._runs.append((since, 1))
            start = since + -clock % MICROS_PER_HOUR
            self._runs.append((start, max(0, -((start - until) // MICROS_PER_HOUR))))
            clock_before = until + offset

    def count_until(self, instant: Micros) -> int:
        """The number of starts up to and including the instant."""
        return sum(
            min(count, max(0, (instant - start) // MICROS_PER_HOUR + 1)) for start, count in self._runs
        )

    def at(self, index: int) -> Micros:
        """The start of that index."""
        for start, count in self._runs:
            if index < count:
                return max(start + index * MICROS_PER_HOUR, TIME_MIN_MICROS)
            index -= count
        raise IndexError(index)
