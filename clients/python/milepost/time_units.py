"""Units that numbers count where a time is expected."""

from __future__ import annotations

from collections.abc import Mapping

from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_NANOSECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)

TIME_UNITS: Mapping[str, TimeUnit.ValueType] = {
    "s": TIME_UNIT_SECONDS,
    "ms": TIME_UNIT_MILLISECONDS,
    "us": TIME_UNIT_MICROSECONDS,
    "ns": TIME_UNIT_NANOSECONDS,
}
UNIT_NANOS: Mapping[TimeUnit.ValueType, int] = {
    TIME_UNIT_SECONDS: 1_000_000_000,
    TIME_UNIT_MILLISECONDS: 1_000_000,
    TIME_UNIT_MICROSECONDS: 1_000,
    TIME_UNIT_NANOSECONDS: 1,
}
