"""Timestamps and durations of the contract, and the microseconds of the engine.

Digits finer than microseconds are dropped, towards the past for instants and towards zero for durations.
"""

from __future__ import annotations

import datetime as dt

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import InvalidInput
from engine.values import MICROS_PER_SECOND, TIME_MAX_MICROS, TIME_MIN_MICROS, Micros
from service.convert.faults import ShapeFaults

NANOS_PER_MICRO = 1_000
NANOS_PER_SECOND = 1_000_000_000
SECONDS_MIN = TIME_MIN_MICROS // MICROS_PER_SECOND
SECONDS_MAX = TIME_MAX_MICROS // MICROS_PER_SECOND
DURATION_SECONDS_MAX = 315_576_000_000
"""About 10,000 years, the limit of `google.protobuf.Duration`."""

OUT_OF_RANGE = "must lie in the years 1 to 9999, with 0 to 999,999,999 nanoseconds"
DURATION_OUT_OF_RANGE = "must be within 10,000 years, with seconds and nanoseconds of one sign"


def micros_of(message: Timestamp) -> Micros | None:
    """The instant in microseconds, None when the message is unset."""
    seconds, nanos = message.seconds, message.nanos
    if SECONDS_MIN <= seconds <= SECONDS_MAX and 0 <= nanos < NANOS_PER_SECOND:
        return seconds * MICROS_PER_SECOND + nanos // NANOS_PER_MICRO
    return None


def instant(message: Timestamp, path: str, faults: ShapeFaults) -> Micros:
    """The instant in microseconds. Adds a fault and returns 0 when it is malformed."""
    micros = micros_of(message)
    if micros is None:
        faults.add(path, OUT_OF_RANGE)
        return 0
    return micros


def duration(message: Duration, path: str, faults: ShapeFaults) -> Micros:
    """The duration in microseconds, may be negative. Adds a fault and returns 0 when it is malformed."""
    seconds, nanos = message.seconds, message.nanos
    in_range = abs(seconds) <= DURATION_SECONDS_MAX and abs(nanos) < NANOS_PER_SECOND
    if not in_range or seconds * nanos < 0:
        faults.add(path, DURATION_OUT_OF_RANGE)
        return 0
    whole = abs(seconds) * MICROS_PER_SECOND + abs(nanos) // NANOS_PER_MICRO
    return -whole if seconds < 0 or nanos < 0 else whole


def optional_instant(request: Message, field: str) -> Micros | None:
    """The instant of a field of a request that may be unset. Raises InvalidInput when it is malformed."""
    # Most are unset, and reading a field makes an object.
    if not request.HasField(field):
        return None
    micros = micros_of(getattr(request, field))
    if micros is None:
        raise InvalidInput.one(field, OUT_OF_RANGE)
    return micros


def timestamp(micros: Micros) -> Timestamp:
    """The message for an instant."""
    seconds, rest = divmod(micros, MICROS_PER_SECOND)
    return Timestamp(seconds=seconds, nanos=rest * NANOS_PER_MICRO)


def duration_message(micros: Micros) -> Duration:
    """The message for a duration."""
    seconds, rest = divmod(abs(micros), MICROS_PER_SECOND)
    sign = -1 if micros < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * rest * NANOS_PER_MICRO)


_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def rfc3339(micros: Micros) -> str:
    """The instant as text, for example `2024-02-29T08:30:00.000001Z`."""
    moment = _EPOCH + dt.timedelta(microseconds=micros)
    return moment.isoformat().removesuffix("+00:00") + "Z"
