"""Time zones by their IANA name: when their clocks change, and when their days begin."""

from __future__ import annotations

import datetime as dt
import functools
from zoneinfo import ZoneInfo

from engine.values import (
    MICROS_PER_DAY,
    MICROS_PER_SECOND,
    TIME_MAX_MICROS,
    TIME_MIN_MICROS,
    Micros,
)

SPAN_MICROS = 128 * MICROS_PER_DAY
"""Length of the spans in which changes of clocks are looked for and kept."""

_PROBE_MICROS = MICROS_PER_DAY
"""No zone has changed its offset twice within this time; the shortest was four days."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# One day inside the range of `datetime`, so that no offset leaves it.
_FIRST_MICROS = TIME_MIN_MICROS + MICROS_PER_DAY
_LAST_MICROS = TIME_MAX_MICROS - MICROS_PER_DAY


class BadTimeZone(ValueError):
    """No such zone in the time zone database."""


def load_zone(name: str) -> ZoneInfo:
    """The zone called `name` ("Europe/Berlin"). Raises BadTimeZone."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError) as error:
        # A name can be unknown, malformed, a directory of zones ("America"), or a path out of the database.
        raise BadTimeZone(f"{name!r} is not a time zone of the IANA database") from error


def local_time(instant: Micros, zone: ZoneInfo) -> dt.datetime:
    """The local time. An instant less than a day from the first or last representable one is moved to a
    day from it.
    """
    held = min(max(instant, _FIRST_MICROS), _LAST_MICROS)
    return (_EPOCH + held * _MICROSECOND).astimezone(zone)


def offsets_between(zone: ZoneInfo, start: Micros, end: Micros) -> list[tuple[Micros, Micros]]:
    """The offsets from UTC in [start, end), each with the instant from which it holds, first `start`."""
    found: list[tuple[Micros, Micros]] = []
    for span in range(start // SPAN_MICROS, -(-end // SPAN_MICROS)):
        for since, offset in offsets_in_span(zone.key, span):
            if since <= start:
                found = [(start, offset)]
            elif since < end and offset != found[-1][1]:
                found.append((since, offset))
    return found


@functools.lru_cache(maxsize=4_096)
def offsets_in_span(time_zone: str, span: int) -> tuple[tuple[Micros, Micros], ...]:
    """The offsets from UTC within the span of that number, each with the instant from which it holds. The
    first is the start of the span. In microseconds.
    """
    zone = load_zone(time_zone)
    start, end = span * SPAN_MICROS, (span + 1) * SPAN_MICROS
    found = [(start, _offset(zone, start))]
    for probe in range(start + _PROBE_MICROS, end + 1, _PROBE_MICROS):
        offset = _offset(zone, probe)
        if offset != found[-1][1]:
            found.append((_change(zone, probe - _PROBE_MICROS, probe), offset))
    # A change at the end belongs to the next span.
    return tuple(each for each in found if each[0] < end)


def _change(zone: ZoneInfo, before: Micros, after: Micros) -> Micros:
    """The second at which the offset changes between two instants."""
    old = _offset(zone, before)
    low, high = before // MICROS_PER_SECOND, after // MICROS_PER_SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(zone, middle * MICROS_PER_SECOND) == old:
            low = middle
        else:
            high = middle
    return high * MICROS_PER_SECOND


def _offset(zone: ZoneInfo, instant: Micros) -> Micros:
    return (local_time(instant, zone).utcoffset() or dt.timedelta()) // _MICROSECOND


def start_of_day(ordinal: int, zone: ZoneInfo) -> Micros:
    """The first instant at which the local clock has reached the day of this ordinal, clamped to the range of
    timestamps: the first of two midnights, or the moment at which clocks jump over midnight.
    """
    if ordinal < dt.date.min.toordinal():
        return TIME_MIN_MICROS
    if ordinal > dt.date.max.toordinal():
        return TIME_MAX_MICROS + 1
    midnight = dt.datetime.combine(dt.date.fromordinal(ordinal), dt.time(), tzinfo=zone)
    by_offset_before, by_offset_after = _instant(midnight), _instant(midnight.replace(fold=1))
    if by_offset_after < by_offset_before:
        # Clocks jump over midnight, between the two instants at which it would have been.
        _, (change, _) = offsets_between(zone, by_offset_after, by_offset_before + 1)
        return change
    return min(max(by_offset_before, TIME_MIN_MICROS), TIME_MAX_MICROS + 1)


def _instant(local: dt.datetime) -> Micros:
    offset = local.utcoffset() or dt.timedelta()
    return (local.replace(tzinfo=dt.UTC, fold=0) - _EPOCH - offset) // _MICROSECOND


def day_of(instant: Micros, zone: ZoneInfo) -> int:
    """The ordinal of the last day that has started by then. It is the date the clock shows, or a later one
    while a clock that was put back over midnight shows the date before once more.
    """
    ordinal = local_time(instant, zone).toordinal()
    while start_of_day(ordinal + 1, zone) <= instant:
        ordinal += 1
    return ordinal
