"""Calendar windows of one unit tile time: no gap, no overlap, in every time zone, around every change of
clocks between 1970 and 2037.

`MILEPOST_TILING=all` checks every change (minutes instead of seconds), `MILEPOST_TILING=7` another sample.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.resources
import os
import random
import struct
import zoneinfo
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.criteria.model import Calendar, CalendarUnit
from engine.criteria.ranges import TimeRange
from engine.criteria.zones import offsets_between
from engine.plan.windows import window_range
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND, Micros

SEED = os.environ.get("MILEPOST_TILING", "1970")
SAMPLE = 300
"""Changes by whole hours in a sample, besides all others."""

FIRST_SECOND = 0
END_SECOND = 2_145_916_800
"""2038-01-01T00:00:00Z."""
STEP_SECONDS = 3 * 24 * 3_600
"""Rules for summer time are months apart, so that no change is missed in steps of three days."""

_HEADER = struct.Struct(">4sc15x6l")


class Change(NamedTuple):
    """The second at which a zone's offset from UTC changes, and the offsets (seconds) before and after."""

    zone: str
    at: int
    before: int
    after: int

    @property
    def is_odd(self) -> bool:
        """By other than whole hours, or by a day or more, or back over midnight."""
        shift = self.after - self.before
        is_back_over_midnight = (self.at + self.before) // 86_400 > (self.at + self.after) // 86_400
        return bool(shift % 3_600) or abs(shift) >= 20 * 3_600 or is_back_over_midnight


def zone_file(name: str) -> bytes:
    """The file that `zoneinfo` reads."""
    for folder in zoneinfo.TZPATH:
        path = Path(folder) / name
        if path.is_file():
            return path.read_bytes()
    return importlib.resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


def written_transitions(file: bytes) -> tuple[int, ...]:
    """The transition times of a TZif file (RFC 8536) of version 2 or later."""
    magic, _, utc_flags, standard_flags, leaps, times, types, letters = _HEADER.unpack_from(file)
    assert magic == b"TZif"
    second = _HEADER.size + 5 * times + 6 * types + letters + 8 * leaps + standard_flags + utc_flags
    times = _HEADER.unpack_from(file, second)[5]
    return struct.unpack_from(f">{times}q", file, second + _HEADER.size)


def has_rule(file: bytes) -> bool:
    """Whether clocks go on changing after the last transition that is written: the last line holds a rule."""
    return b"," in file.splitlines()[-1]


def offset(zone: zoneinfo.ZoneInfo, second: int) -> int:
    found = dt.datetime.fromtimestamp(second, zone).utcoffset()
    assert found is not None
    return found // dt.timedelta(seconds=1)


def changes_by_rule(zone: zoneinfo.ZoneInfo, start: int) -> list[int]:
    """The seconds at which the offset changes after `start`, found without the file."""
    found = []
    for low in range(start, END_SECOND, STEP_SECONDS):
        high = low + STEP_SECONDS
        old = offset(zone, low)
        if offset(zone, high) != old:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(zone, middle) == old else (low, middle)
            found.append(high)
    return found


@functools.cache
def all_changes() -> tuple[Change, ...]:
    """Every change of every zone of the database. Zones with equal files count as one, by the longest
    name.
    """
    zones = {
        zone_file(name): name for name in sorted(zoneinfo.available_timezones(), key=lambda n: (len(n), n))
    }
    found = []
    for file, name in sorted(zones.items(), key=lambda item: item[1]):
        zone = zoneinfo.ZoneInfo(name)
        written = written_transitions(file)
        seconds = [second for second in written if FIRST_SECOND <= second < END_SECOND]
        if has_rule(file):
            seconds += changes_by_rule(zone, max((FIRST_SECOND, *written)))
        changes = (Change(name, at, offset(zone, at - 1), offset(zone, at)) for at in seconds)
        found += [change for change in changes if change.before != change.after]
    return tuple(found)


@functools.cache
def chosen_changes() -> tuple[Change, ...]:
    """All changes, or a sample with every odd one."""
    if SEED == "all":
        return all_changes()
    plain = [change for change in all_changes() if not change.is_odd]
    odd = [change for change in all_changes() if change.is_odd]
    return (*odd, *random.Random(SEED).sample(plain, SAMPLE))


def window(unit: CalendarUnit, now: Micros, zone: str, *, count: int = 1, offset: int = 0) -> TimeRange:
    return window_range(Calendar(unit=unit, count=count, offset=offset, time_zone=zone), now, "UTC")


def assert_tiles(unit: CalendarUnit, now: Micros, zone: str) -> None:
    told = f"{unit} in {zone} at {now}, seed {SEED}"
    this, before = window(unit, now, zone), window(unit, now, zone, offset=1)
    assert this.holds(now), told
    assert before.end == this.start, told
    assert window(unit, now, zone, count=2) == TimeRange(before.start, this.end), told
    assert this.start is not None
    assert this.end is not None
    # Every instant of a unit sees the same unit; the instants next to it see its neighbours.
    assert window(unit, this.start, zone) == window(unit, this.end - 1, zone) == this, told
    assert window(unit, this.end, zone).start == this.end, told
    assert window(unit, this.start - 1, zone).end == this.start, told


def test_the_database_is_read() -> None:
    changes = all_changes()
    assert len({change.zone for change in changes}) > 200
    assert len(changes) > 10_000
    lord_howe = [change for change in changes if change.zone == "Australia/Lord_Howe"]
    assert Change("Australia/Lord_Howe", 1_775_314_800, 39_600, 37_800) in lord_howe
    assert all(change in chosen_changes() for change in lord_howe if change.at > 1_000_000_000)
    newest = dt.datetime.fromtimestamp(max(change.at for change in changes), dt.UTC)
    assert newest.year == 2037


def test_every_change_of_clocks_is_found() -> None:
    for change in chosen_changes():
        at = change.at * MICROS_PER_SECOND
        found = offsets_between(zoneinfo.ZoneInfo(change.zone), at - MICROS_PER_DAY, at + MICROS_PER_DAY)
        expected = (at, change.after * MICROS_PER_SECOND)
        assert found[1:] == [expected], f"{change}, seed {SEED}"


@pytest.mark.parametrize("unit", list(CalendarUnit))
def test_units_tile_time_around_every_change_of_clocks(unit: CalendarUnit) -> None:
    chooser = random.Random(SEED)
    for change in chosen_changes():
        at = change.at * MICROS_PER_SECOND
        near = at + chooser.randrange(-26 * MICROS_PER_HOUR, 26 * MICROS_PER_HOUR)
        for now in (at - 1, at, near):
            assert_tiles(unit, now, change.zone)


def test_hours_last_60_minutes_unless_clocks_change_within_one_or_by_less() -> None:
    for change in chosen_changes():
        at = change.at * MICROS_PER_SECOND
        lengths = set()
        for now in range(at - 2 * MICROS_PER_HOUR, at + 3 * MICROS_PER_HOUR, MICROS_PER_HOUR):
            hour = window(CalendarUnit.HOUR, now, change.zone)
            assert hour.start is not None
            assert hour.end is not None
            lengths.add(hour.end - hour.start)
        shift = change.after - change.before
        if shift % 3_600 == 0 and (shift < 0 or (change.at + change.before) % 3_600 == 0):
            assert lengths == {MICROS_PER_HOUR}, f"{change}, seed {SEED}"
        assert max(lengths) < 2 * MICROS_PER_HOUR, f"{change}, seed {SEED}"
