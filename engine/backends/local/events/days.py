"""Calendar days in a time zone, for many instants at once."""

from __future__ import annotations

import functools

import numpy as np

from engine.backends.local.storage.arrays import Int64s, sorted_distinct
from engine.criteria.zones import SPAN_MICROS, offsets_in_span
from engine.values import MICROS_PER_DAY


def local_days(times: Int64s, time_zone: str) -> Int64s:
    """Calendar day of each instant in the zone, in days since 1970-01-01."""
    if time_zone == "UTC" or not len(times):
        return times // MICROS_PER_DAY
    spans = sorted_distinct(times // SPAN_MICROS)
    offsets = np.empty(len(times), np.int64)
    for span in spans.tolist():
        starts, span_offsets = _offsets(time_zone, span)
        inside = times // SPAN_MICROS == span if len(spans) > 1 else slice(None)
        offsets[inside] = span_offsets[np.searchsorted(starts, times[inside], "right") - 1]
    return (times + offsets) // MICROS_PER_DAY


@functools.lru_cache(maxsize=4_096)
def _offsets(time_zone: str, span: int) -> tuple[Int64s, Int64s]:
    """The instants from which each offset in the span holds, and the offsets in microseconds."""
    starts, offsets = zip(*offsets_in_span(time_zone, span), strict=True)
    return np.array(starts), np.array(offsets)
