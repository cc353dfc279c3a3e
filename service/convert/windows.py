"""Windows of time, in both directions."""

from __future__ import annotations

from engine.criteria.model import BetweenAgo, Calendar, CalendarUnit, Last, Range, Window
from milepost.v1 import criteria_pb2
from service.convert.enums import members_of, numbers_of
from service.convert.faults import ShapeFaults
from service.convert.times import duration, duration_message, instant, timestamp

NO_WINDOW = "must have exactly one window"
NO_UNIT = "must be a calendar unit"

_UNITS = members_of(criteria_pb2.CalendarUnit, CalendarUnit)
_UNIT_MESSAGES = numbers_of(criteria_pb2.CalendarUnit, CalendarUnit)


def window_of(message: criteria_pb2.Window, path: str, faults: ShapeFaults) -> Window | None:
    """The window in the message. Adds a fault and returns None when it has none."""
    match message.WhichOneof("window"):
        case "last":
            return Last(duration=duration(message.last, f"{path}.last", faults))
        case "between_ago":
            ago = message.between_ago
            start = duration(ago.from_age, f"{path}.between_ago.from", faults)
            return BetweenAgo(from_=start, to=duration(ago.to_age, f"{path}.between_ago.to", faults))
        case "time_range":
            return _range(message.time_range, f"{path}.range", faults)
        case "calendar":
            return _calendar(message.calendar, f"{path}.calendar", faults)
    faults.add(path, NO_WINDOW)
    return None


def _range(message: criteria_pb2.TimeRange, path: str, faults: ShapeFaults) -> Range:
    return Range(
        start=instant(message.start, f"{path}.start", faults) if message.HasField("start") else None,
        end=instant(message.end, f"{path}.end", faults) if message.HasField("end") else None,
    )


def _calendar(message: criteria_pb2.CalendarWindow, path: str, faults: ShapeFaults) -> Calendar:
    unit = _UNITS.get(message.unit)
    if unit is None:
        faults.add(f"{path}.unit", NO_UNIT)
        unit = CalendarUnit.DAY
    return Calendar(unit=unit, count=message.count or 1, offset=message.offset, time_zone=message.time_zone)


def window_message(window: Window) -> criteria_pb2.Window:
    """The message for a window."""
    message = criteria_pb2.Window()
    match window:
        case Last():
            message.last.CopyFrom(duration_message(window.duration))
        case BetweenAgo():
            message.between_ago.from_age.CopyFrom(duration_message(window.from_))
            message.between_ago.to_age.CopyFrom(duration_message(window.to))
        case Range():
            message.time_range.SetInParent()
            if window.start is not None:
                message.time_range.start.CopyFrom(timestamp(window.start))
            if window.end is not None:
                message.time_range.end.CopyFrom(timestamp(window.end))
        case Calendar():
            message.calendar.unit = _UNIT_MESSAGES[window.unit]
            message.calendar.count = window.count
            message.calendar.offset = window.offset
            message.calendar.time_zone = window.time_zone
    return message
