"""Windows become half-open ranges of instants, exact to the microsecond at both ends.

Windows relative to now are (from, to] in the language. Instants are whole microseconds, so that is
[from + 1, to + 1).
"""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

from engine.criteria.model import BetweenAgo, Calendar, CalendarUnit, Last, Range, Window
from engine.criteria.operators.relative_time import last_range
from engine.criteria.ranges import ALL_TIME, TimeRange
from engine.criteria.zones import load_zone
from engine.plan.tree import Account
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS, Micros

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_MONTHS = {CalendarUnit.MONTH: 1, CalendarUnit.QUARTER: 3, CalendarUnit.YEAR: 12}
_DAYS = {CalendarUnit.DAY: 1, CalendarUnit.WEEK: 7}


def events_range(window: Window | None, as_of: Micros, account: Account) -> TimeRange:
    """The instants whose events a criterion with this window counts at `as_of`: those in the window that lie
    within the account's retention, [as_of - retention, ∞).

    So what counts never hangs on when events are removed from disk, as long as that is not before they have
    left the retention.
    """
    span = window_range(window, as_of, account.time_zone)
    if not account.event_retention:
        return span
    oldest = as_of - account.event_retention
    return TimeRange(oldest if span.start is None else max(oldest, span.start), span.end)


def window_range(window: Window | None, as_of: Micros, time_zone: str) -> TimeRange:
    """The instants in the window at `as_of`; `time_zone` is the account's, for calendars that name none."""
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
    # A day inside the years that dates can name, so that no zone's offset leads out of them.
    as_of = min(max(as_of, TIME_MIN_MICROS + MICROS_PER_DAY), TIME_MAX_MICROS - MICROS_PER_DAY)
    local = (_EPOCH + as_of * _MICROSECOND).astimezone(zone)
    first, end = -window.offset - window.count + 1, -window.offset + 1
    if window.unit is CalendarUnit.HOUR:
        past_hour = dt.timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)
        hour = as_of - past_hour // _MICROSECOND
        return TimeRange(hour + first * MICROS_PER_HOUR, hour + end * MICROS_PER_HOUR)
    today = local.date()
    return TimeRange(
        _start_of_unit(window.unit, today, first, zone), _start_of_unit(window.unit, today, end, zone)
    )


def _start_of_unit(unit: CalendarUnit, today: dt.date, steps: int, zone: ZoneInfo) -> Micros:
    """The first instant of the unit that lies `steps` units after the one with `today` in it."""
    if unit in _DAYS:
        first_day = today.toordinal() - (today.weekday() if unit is CalendarUnit.WEEK else 0)
        return _midnight(first_day + steps * _DAYS[unit], zone)
    length = _MONTHS[unit]
    month = (today.year * 12 + today.month - 1) // length * length + steps * length
    year, month_of_year = divmod(month, 12)
    if year < dt.MINYEAR:
        return TIME_MIN_MICROS
    if year > dt.MAXYEAR:
        return TIME_MAX_MICROS + 1
    return _midnight(dt.date(year, month_of_year + 1, 1).toordinal(), zone)


def _midnight(ordinal: int, zone: ZoneInfo) -> Micros:
    """The instant at which the local day begins, held within the instants that timestamps can name.

    At the first of two midnights; where clocks skip midnight, `fold=0` counts it by the offset before the
    jump, which is the moment of the jump.
    """
    if ordinal < dt.date.min.toordinal():
        return TIME_MIN_MICROS
    if ordinal > dt.date.max.toordinal():
        return TIME_MAX_MICROS + 1
    day = dt.datetime.combine(dt.date.fromordinal(ordinal), dt.time(), tzinfo=zone)
    offset = day.utcoffset() or dt.timedelta()
    instant = (day.replace(tzinfo=dt.UTC) - _EPOCH - offset) // _MICROSECOND
    return min(max(instant, TIME_MIN_MICROS), TIME_MAX_MICROS + 1)
