"""Windows at their ends: to the microsecond, over month ends, leap days and days on which clocks change."""

from __future__ import annotations

import datetime as dt

import pytest

from engine.criteria.model import BetweenAgo, Calendar, CalendarUnit, Last, Range, Window
from engine.criteria.ranges import TimeRange
from engine.plan.windows import window_range
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, TIME_MAX_MICROS, TIME_MIN_MICROS

UTC = dt.UTC
HOUR, DAY, WEEK = CalendarUnit.HOUR, CalendarUnit.DAY, CalendarUnit.WEEK
MONTH, QUARTER, YEAR = CalendarUnit.MONTH, CalendarUnit.QUARTER, CalendarUnit.YEAR


def micros(text: str) -> int:
    moment = dt.datetime.fromisoformat(text)
    return (moment - dt.datetime(1970, 1, 1, tzinfo=UTC)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        (Last(duration=10), (91, 100), (90, 101)),
        (BetweenAgo(from_=10, to=3), (91, 97), (90, 98)),
        (BetweenAgo(from_=10, to=0), (91, 100), (90, 101)),
        (Range(start=5, end=9), (5, 8), (4, 9)),
        (Range(start=5), (5, TIME_MAX_MICROS), (4,)),
        (Range(end=9), (TIME_MIN_MICROS, 8), (9,)),
        (None, (TIME_MIN_MICROS, TIME_MAX_MICROS), ()),
    ],
)
def test_both_ends(window: Window | None, inside: tuple[int, ...], outside: tuple[int, ...]) -> None:
    found = window_range(window, 100, "UTC")
    assert all(map(found.holds, inside))
    assert not any(map(found.holds, outside))


BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"

CALENDARS: list[tuple[CalendarUnit, int, int, str, str, str, str]] = [
    # unit, count, offset, zone, now, start, end
    (DAY, 1, 0, "UTC", "2024-03-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00", "2024-03-02T00:00:00+00:00"),
    (DAY, 1, 1, "UTC", "2024-03-01T00:00:00+00:00", "2024-02-29T00:00:00+00:00", "2024-03-01T00:00:00+00:00"),
    (
        DAY,
        1,
        0,
        "UTC",
        "2024-02-29T23:59:59.999999+00:00",
        "2024-02-29T00:00:00+00:00",
        "2024-03-01T00:00:00+00:00",
    ),
    # Now is another day there than in UTC.
    (
        DAY,
        1,
        0,
        NEW_YORK,
        "2024-01-10T03:00:00+00:00",
        "2024-01-09T05:00:00+00:00",
        "2024-01-10T05:00:00+00:00",
    ),
    # 23 and 25 hours.
    (
        DAY,
        1,
        0,
        BERLIN,
        "2024-03-31T12:00:00+00:00",
        "2024-03-30T23:00:00+00:00",
        "2024-03-31T22:00:00+00:00",
    ),
    (
        DAY,
        1,
        0,
        BERLIN,
        "2024-10-27T12:00:00+00:00",
        "2024-10-26T22:00:00+00:00",
        "2024-10-27T23:00:00+00:00",
    ),
    (
        DAY,
        1,
        1,
        NEW_YORK,
        "2024-03-11T12:00:00+00:00",
        "2024-03-10T05:00:00+00:00",
        "2024-03-11T04:00:00+00:00",
    ),
    (
        DAY,
        1,
        1,
        NEW_YORK,
        "2024-11-04T12:00:00+00:00",
        "2024-11-03T04:00:00+00:00",
        "2024-11-04T05:00:00+00:00",
    ),
    # Clocks skip midnight: the day begins at the jump. Clocks show midnight twice: at the first.
    (
        DAY,
        1,
        0,
        "America/Sao_Paulo",
        "2018-11-04T12:00:00+00:00",
        "2018-11-04T03:00:00+00:00",
        "2018-11-05T02:00:00+00:00",
    ),
    (
        DAY,
        1,
        0,
        "America/Havana",
        "2023-11-05T12:00:00+00:00",
        "2023-11-05T04:00:00+00:00",
        "2023-11-06T05:00:00+00:00",
    ),
    # A whole day skipped at the date line lasted no time.
    (
        DAY,
        1,
        1,
        "Pacific/Apia",
        "2011-12-30T12:00:00+00:00",
        "2011-12-30T10:00:00+00:00",
        "2011-12-30T10:00:00+00:00",
    ),
    # ISO weeks, from Monday; the week of 2021-01-03 (a Sunday) began in 2020.
    (
        WEEK,
        1,
        0,
        "UTC",
        "2021-01-03T23:00:00+00:00",
        "2020-12-28T00:00:00+00:00",
        "2021-01-04T00:00:00+00:00",
    ),
    (
        WEEK,
        1,
        0,
        "UTC",
        "2021-01-04T00:00:00+00:00",
        "2021-01-04T00:00:00+00:00",
        "2021-01-11T00:00:00+00:00",
    ),
    (
        WEEK,
        2,
        1,
        "UTC",
        "2021-01-06T10:00:00+00:00",
        "2020-12-21T00:00:00+00:00",
        "2021-01-04T00:00:00+00:00",
    ),
    (
        WEEK,
        1,
        0,
        BERLIN,
        "2024-03-28T10:00:00+00:00",
        "2024-03-24T23:00:00+00:00",
        "2024-03-31T22:00:00+00:00",
    ),
    # Months, quarters and years, over their ends.
    (
        MONTH,
        1,
        0,
        "UTC",
        "2024-02-10T00:00:00+00:00",
        "2024-02-01T00:00:00+00:00",
        "2024-03-01T00:00:00+00:00",
    ),
    (
        MONTH,
        1,
        1,
        "UTC",
        "2024-03-31T00:00:00+00:00",
        "2024-02-01T00:00:00+00:00",
        "2024-03-01T00:00:00+00:00",
    ),
    (
        MONTH,
        3,
        1,
        "UTC",
        "2024-01-31T00:00:00+00:00",
        "2023-10-01T00:00:00+00:00",
        "2024-01-01T00:00:00+00:00",
    ),
    (
        MONTH,
        1,
        0,
        BERLIN,
        "2024-03-31T22:30:00+00:00",
        "2024-03-31T22:00:00+00:00",
        "2024-04-30T22:00:00+00:00",
    ),
    (
        QUARTER,
        1,
        0,
        "UTC",
        "2024-05-31T00:00:00+00:00",
        "2024-04-01T00:00:00+00:00",
        "2024-07-01T00:00:00+00:00",
    ),
    (
        QUARTER,
        2,
        1,
        "UTC",
        "2024-01-01T00:00:00+00:00",
        "2023-07-01T00:00:00+00:00",
        "2024-01-01T00:00:00+00:00",
    ),
    (
        YEAR,
        1,
        0,
        "UTC",
        "2024-12-31T23:59:59+00:00",
        "2024-01-01T00:00:00+00:00",
        "2025-01-01T00:00:00+00:00",
    ),
    (
        YEAR,
        1,
        1,
        NEW_YORK,
        "2024-01-01T04:59:59+00:00",
        "2022-01-01T05:00:00+00:00",
        "2023-01-01T05:00:00+00:00",
    ),
    # Hours begin where the local clock shows a full one, and last 3,600 seconds while clocks change by hours.
    (
        HOUR,
        1,
        0,
        BERLIN,
        "2024-10-27T00:30:00+00:00",
        "2024-10-27T00:00:00+00:00",
        "2024-10-27T01:00:00+00:00",
    ),
    (
        HOUR,
        2,
        1,
        BERLIN,
        "2024-10-27T02:30:00+00:00",
        "2024-10-27T00:00:00+00:00",
        "2024-10-27T02:00:00+00:00",
    ),
    # Clocks change by 30 minutes: an hour of 90 minutes in autumn, one of 30 in spring.
    (
        HOUR,
        1,
        0,
        LORD_HOWE,
        "2026-04-04T14:50:00+00:00",
        "2026-04-04T14:00:00+00:00",
        "2026-04-04T15:30:00+00:00",
    ),
    (
        HOUR,
        1,
        0,
        LORD_HOWE,
        "2026-04-04T15:10:00+00:00",
        "2026-04-04T14:00:00+00:00",
        "2026-04-04T15:30:00+00:00",
    ),
    (
        HOUR,
        1,
        1,
        LORD_HOWE,
        "2026-10-03T16:10:00+00:00",
        "2026-10-03T15:30:00+00:00",
        "2026-10-03T16:00:00+00:00",
    ),
    (
        HOUR,
        100_000,
        100_000,
        LORD_HOWE,
        "2026-04-04T13:50:00+00:00",
        "2003-06-11T06:30:00+00:00",
        "2014-11-06T22:00:00+00:00",
    ),
    # From 44 minutes and 30 seconds behind UTC to UTC: the clock jumps from 00:00:00 to 00:44:30.
    (
        HOUR,
        2,
        1,
        "Africa/Monrovia",
        "1972-01-07T01:10:00+00:00",
        "1972-01-06T23:44:30+00:00",
        "1972-01-07T01:00:00+00:00",
    ),
    # Clocks are put back over midnight: the day that had begun goes on.
    (
        DAY,
        1,
        0,
        "America/St_Johns",
        "2010-11-07T02:45:00+00:00",
        "2010-11-07T02:30:00+00:00",
        "2010-11-08T03:30:00+00:00",
    ),
    (
        DAY,
        1,
        0,
        "Antarctica/Casey",
        "2010-03-04T16:00:00+00:00",
        "2010-03-04T13:00:00+00:00",
        "2010-03-05T16:00:00+00:00",
    ),
    (
        HOUR,
        1,
        0,
        "Asia/Kolkata",
        "2024-06-01T10:15:00+00:00",
        "2024-06-01T09:30:00+00:00",
        "2024-06-01T10:30:00+00:00",
    ),
]


@pytest.mark.parametrize(("unit", "count", "offset", "zone", "now", "start", "end"), CALENDARS)
def test_a_calendar_window(
    unit: CalendarUnit, count: int, offset: int, zone: str, now: str, start: str, end: str
) -> None:
    expected = TimeRange(micros(start), micros(end))
    window = Calendar(unit=unit, count=count, offset=offset, time_zone=zone)
    assert window_range(window, micros(now), "Asia/Tokyo") == expected
    of_account = Calendar(unit=unit, count=count, offset=offset)
    assert window_range(of_account, micros(now), zone) == expected


@pytest.mark.parametrize("zone", ["UTC", BERLIN, NEW_YORK, "Pacific/Apia", "Asia/Kolkata"])
@pytest.mark.parametrize("unit", list(CalendarUnit))
def test_units_are_contiguous_and_the_current_one_contains_now(unit: CalendarUnit, zone: str) -> None:
    for now in range(
        micros("2024-10-20T00:00:00+00:00"), micros("2024-11-10T00:00:00+00:00"), 7 * MICROS_PER_HOUR
    ):
        this, before = (window_range(Calendar(unit=unit, offset=offset), now, zone) for offset in (0, 1))
        assert this.holds(now)
        assert before.end == this.start
        both = window_range(Calendar(unit=unit, count=2), now, zone)
        assert both == TimeRange(before.start, this.end)


@pytest.mark.parametrize("unit", list(CalendarUnit))
def test_windows_are_clamped_to_valid_dates(unit: CalendarUnit) -> None:
    for now in (TIME_MIN_MICROS, TIME_MAX_MICROS):
        found = window_range(Calendar(unit=unit, count=100_000), now, NEW_YORK)
        assert found.start is not None
        assert found.end is not None
        assert TIME_MIN_MICROS <= found.start <= found.end <= TIME_MAX_MICROS + 1
    long_ago = window_range(
        Calendar(unit=unit, count=1, offset=100_000), TIME_MIN_MICROS + MICROS_PER_DAY, "UTC"
    )
    assert long_ago.is_empty
