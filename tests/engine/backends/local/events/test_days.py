"""Calendar days of many instants against `datetime`, one by one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events.days import local_days
from engine.values import MICROS_PER_SECOND, TIME_MAX_MICROS, TIME_MIN_MICROS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",  # until 2011 clocks changed a minute after midnight, so a day came twice
    "Africa/Casablanca",
    "Pacific/Apia",  # had no 30 December 2011
    "Asia/Kathmandu",
    "Antarctica/Troll",
)


def day_of(instant: int, zone: str) -> int:
    local = (EPOCH + timedelta(microseconds=instant)).astimezone(ZoneInfo(zone)).date()
    return (local - date(1970, 1, 1)).days


modern = st.datetimes(datetime(1960, 1, 1), datetime(2040, 1, 1)).map(
    lambda naive: (naive.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
)


@pytest.mark.parametrize("zone", ZONES)
@given(instants=st.lists(modern, max_size=5))
def test_days_follow_the_calendar(zone: str, instants: list[int]) -> None:
    expected = [day_of(instant, zone) for instant in instants]
    assert local_days(np.array(instants, np.int64), zone).tolist() == expected


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [1987, 2011, 2026])
def test_every_quarter_of_an_hour_of_a_year(zone: str, year: int) -> None:
    start = (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    instants = [start + quarter * 900 * MICROS_PER_SECOND for quarter in range(366 * 96)]
    near = [instant + shift for instant in instants[::4] for shift in (-1, 59_999_999, 60_000_000)]
    expected = [day_of(instant, zone) for instant in (*instants, *near)]
    assert local_days(np.array([*instants, *near]), zone).tolist() == expected


def test_a_change_of_clocks_at_the_end_of_a_span_is_seen() -> None:
    # 2005-09-30 in UTC begins a span of 128 days; clocks in Cairo were put back three hours before.
    changed = (datetime(2005, 9, 29, 21, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
    span_end = changed + 3 * 3_600 * MICROS_PER_SECOND
    assert span_end % (128 * 86_400 * MICROS_PER_SECOND) == 0
    instants = [changed - 1, changed, changed + 3_599 * MICROS_PER_SECOND, span_end - 1, span_end]
    expected = [day_of(instant, "Africa/Cairo") for instant in instants]
    assert local_days(np.array(instants), "Africa/Cairo").tolist() == expected


def test_extreme_instants_have_days() -> None:
    ends = np.array([TIME_MIN_MICROS, TIME_MAX_MICROS])
    assert local_days(ends, "UTC").tolist() == [-719_162, 2_932_896]
    assert local_days(ends, "Pacific/Kiritimati").tolist() == [-719_163, 2_932_897]
