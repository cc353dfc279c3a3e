"""Calendar days in a time zone, for many instants at once."""

from __future__ import annotations

import functools
from datetime import UTC, datetime, timedelta

import numpy as np

from engine.backends.local.storage.arrays import Int64s, sorted_distinct
from engine.criteria.zones import load_zone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND

_SPAN_DAYS = 128
_SPAN_MICROS = _SPAN_DAYS * MICROS_PER_DAY
_PROBE_MICROS = 3 * MICROS_PER_HOUR
"""No zone has changed its offset twice within this time, in microseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# One day inside the limits of `datetime`, so that every offset from UTC fits.
_FIRST_MICROS = -62_135_596_800 * MICROS_PER_SECOND + MICROS_PER_DAY
_LAST_MICROS = 253_402_300_799 * MICROS_PER_SECOND - MICROS_PER_DAY


def local_days(times: Int64s, time_zone: str) -> Int64s:
    """Calendar day of each instant in the zone, in days since 1970-01-01."""
    if time_zone == "UTC" or not len(times):
        return times // MICROS_PER_DAY
    spans = sorted_distinct(times // _SPAN_MICROS)
    offsets = np.empty(len(times), np.int64)
    for span in spans.tolist():
        starts, span_offsets = _offsets(time_zone, span)
        inside = times // _SPAN_MICROS == span if len(spans) > 1 else slice(None)
        offsets[inside] = span_offsets[np.searchsorted(starts, times[inside], "right") - 1]
    return (times + offsets) // MICROS_PER_DAY


@functools.lru_cache(maxsize=4_096)
def _offsets(time_zone: str, span: int) -> tuple[Int64s, Int64s]:
    """Offset changes within a span of days: the instants from which each offset holds (the first is the start
    of the span), and the offsets in microseconds.
    """
    start, end = span * _SPAN_MICROS, (span + 1) * _SPAN_MICROS
    starts, offsets = [start], [_offset(time_zone, start)]
    for probe in range(start + _PROBE_MICROS, end, _PROBE_MICROS):
        offset = _offset(time_zone, probe)
        if offset != offsets[-1]:
            starts.append(_change(time_zone, probe - _PROBE_MICROS, probe))
            offsets.append(offset)
    return np.array(starts), np.array(offsets)


def _change(time_zone: str, before: int, after: int) -> int:
    """The second at which the offset changes between two instants."""
    old = _offset(time_zone, before)
    low, high = before // MICROS_PER_SECOND, after // MICROS_PER_SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(time_zone, middle * MICROS_PER_SECOND) == old:
            low = middle
        else:
            high = middle
    return high * MICROS_PER_SECOND


def _offset(time_zone: str, instant: int) -> int:
    held = min(max(instant, _FIRST_MICROS), _LAST_MICROS)
    offset = (_EPOCH + timedelta(microseconds=held)).astimezone(load_zone(time_zone)).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)
