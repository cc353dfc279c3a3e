"""Windows and calendar units (section 3.2), one event at a time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from engine.criteria.model import BetweenAgo, Calendar, CalendarUnit, Last, Range, Window
from engine.values import MICROS_PER_HOUR, Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def inside(window: Window | None, time: Micros, now: Micros, account_zone: str) -> bool:
    """Whether an event at `time` lies in the window, looked at from `now`."""
    match window:
        case None:
            return True
        case Last():
            return now - window.duration < time <= now
        case BetweenAgo():
            return now - window.from_ < time <= now - window.to
        case Range():
            return (window.start is None or window.start <= time) and (
                window.end is None or time < window.end
            )
        case Calendar():
            zone = window.time_zone or account_zone
            last_unit = unit_number(now, window.unit, zone) - window.offset
            return last_unit - window.count < unit_number(time, window.unit, zone) <= last_unit


@lru_cache(maxsize=1 << 16)
def local_time(time: Micros, zone: str) -> datetime:
    """The wall clock in `zone` (IANA) at an instant."""
    return (_EPOCH + timedelta(microseconds=time)).astimezone(ZoneInfo(zone))


def local_day(time: Micros, zone: str) -> date:
    """The calendar day in `zone` that an instant belongs to."""
    return local_time(time, zone).date()


def unit_number(time: Micros, unit: CalendarUnit, zone: str) -> int:
    """Numbers the units of a calendar so that neighbours differ by one. Weeks start on Mondays."""
    clock = local_time(time, zone)
    match unit:
        case CalendarUnit.HOUR:
            # An hour begins when the clock shows :00 or jumps over it. Whole hours that clocks are put on and
            # back make none longer or shorter; half an hour (Lord Howe) does.
            offset, summer = clock.utcoffset(), clock.dst()
            assert offset is not None
            assert summer is not None
            steady = offset - summer // timedelta(hours=1) * timedelta(hours=1)
            return (time + steady // timedelta(microseconds=1)) // MICROS_PER_HOUR
        case CalendarUnit.DAY:
            return clock.toordinal()
        case CalendarUnit.WEEK:
            return (clock.toordinal() - clock.isoweekday()) // 7
        case CalendarUnit.MONTH:
            return clock.year * 12 + clock.month
        case CalendarUnit.QUARTER:
            return clock.year * 4 + (clock.month - 1) // 3
        case CalendarUnit.YEAR:
            return clock.year
