"""The clock's readings, as a message."""

from __future__ import annotations

from engine.clock import ClockState, ClockStatus
from milepost.v1 import admin_service_pb2 as pb
from service.convert.enums import numbers_of
from service.convert.times import duration_message, timestamp

_STATES = numbers_of(pb.ClockState, ClockState)


def clock_message(status: ClockStatus) -> pb.Clock:
    """All readings of one instant."""
    return pb.Clock(
        state=_STATES[status.state],
        wall_time=timestamp(status.wall),
        time=timestamp(status.now),
        settled_time=timestamp(status.settled),
        wait=duration_message(status.wait),
    )
