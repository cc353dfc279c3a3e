"""Times that fall into 1970: most often seconds or milliseconds that are read as microseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_NANOSECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)

UNITS_A_SECOND = {
    TIME_UNIT_SECONDS: 1,
    TIME_UNIT_MILLISECONDS: 1_000,
    TIME_UNIT_MICROSECONDS: 1_000_000,
    TIME_UNIT_NANOSECONDS: 1_000_000_000,
}
UNIT_NAMES = {
    TIME_UNIT_SECONDS: "s",
    TIME_UNIT_MILLISECONDS: "ms",
    TIME_UNIT_MICROSECONDS: "us",
    TIME_UNIT_NANOSECONDS: "ns",
}
SECONDS_OF_1970 = 365 * 86_400
LIKELY_SECONDS = range(978_307_200, 4_102_444_800)
"""The years 2001 to 2099: a unit that puts a time here is likely the one that is meant."""
DIGITS = "^[0-9]{1,18}$"


@dataclass(frozen=True)
class EarlyTimes:
    """How many of some times fall into 1970, and the unit they are likely in: s, ms, us, ns, or empty."""

    count: int
    times: int
    likely_unit: str


def early_times(batches: Sequence[Any], column: str, unit: TimeUnit.ValueType) -> EarlyTimes | None:
    """What is to be said about the times in a column; None when most of them are of other years."""
    import pyarrow as pa
    import pyarrow.compute

    if not batches or column not in batches[0].schema.names:
        return None
    times = pa.chunked_array([batch.column(column) for batch in batches])
    total = len(times) - times.null_count
    numbers = _numbers(times)
    if numbers is None:
        return None
    whole, a_second = numbers
    is_early = pyarrow.compute.and_(
        pyarrow.compute.greater_equal(whole, 0),
        pyarrow.compute.less(whole, SECONDS_OF_1970 * (a_second or UNITS_A_SECOND[unit])),
    )
    count = int(pyarrow.compute.sum(is_early).as_py() or 0)
    if 2 * count <= total:
        return None
    largest = int(pyarrow.compute.max(whole.filter(is_early)).as_py())
    likely = (
        UNIT_NAMES[each] for each, units in UNITS_A_SECOND.items() if largest // units in LIKELY_SECONDS
    )
    return EarlyTimes(count, total, next(likely, "") if a_second is None else "")


def _numbers(times: Any) -> tuple[Any, int | None] | None:
    """The times as integers, and how many of these are a second; None = as the unit of the settings says."""
    import pyarrow as pa
    import pyarrow.compute

    if pa.types.is_dictionary(times.type):
        times = times.cast(times.type.value_type)
    if pa.types.is_timestamp(times.type):
        a_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[times.type.unit]
        return times.cast(pa.int64()), a_second
    if pa.types.is_string(times.type) or pa.types.is_large_string(times.type):
        is_digits = pyarrow.compute.match_substring_regex(times, DIGITS)
        return pyarrow.compute.if_else(is_digits, times, None).cast(pa.int64()), None
    if pa.types.is_integer(times.type):
        return times.cast(pa.int64(), safe=False), None
    return None
