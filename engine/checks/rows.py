"""Checks of one event or one user update against the limits."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple, TypeAlias

from engine.backends.base import EventRecord, UserRecord
from engine.limits import Limits
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros, Value, kind_of

UTF8_BYTES_MAX = 4
EVENT_AHEAD_MAX = MICROS_PER_DAY
"""Maximum time of an event ahead of the server's clock."""

Fault: TypeAlias = tuple[str, str, str]
"""Reason, field below the row ("" = the row), description."""


class Times(NamedTuple):
    """Range of valid times. `oldest` None = no limit."""

    oldest: Micros | None
    latest: Micros

    @classmethod
    def by_clock(cls, bounds: tuple[Micros, Micros], retention: Micros = 0) -> Times:
        """Those that some reading of the clock allows: by a clock that is wrong, nothing is refused that a
        right one would take. `retention` 0 = keep all.
        """
        earliest, latest = bounds
        return cls(earliest - retention if retention else None, latest + EVENT_AHEAD_MAX)


def is_longer(text: str, bytes_max: int) -> bool:
    """Whether the text has more than `bytes_max` bytes of UTF-8. Encodes long texts only."""
    return len(text) * UTF8_BYTES_MAX > bytes_max and len(text.encode()) > bytes_max


def check_event(record: EventRecord, times: Times, limits: Limits) -> Fault | None:
    """The first fault of an event, or None."""
    fault = check_name("user_id", record.user_id, limits) or check_name("name", record.name, limits)
    if fault is not None:
        return fault
    if times.oldest is not None and record.time < times.oldest:
        return "EVENT_TOO_OLD", "time", "is older than the account's event retention"
    if record.time > times.latest:
        return "EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    if is_longer(record.event_id, limits.name_bytes_max):
        return "VALUE_TOO_LONG", "event_id", f"is longer than {limits.name_bytes_max} bytes"
    return _time_fault(record.time) or _attributes_fault(record.attributes, limits)


def check_user(record: UserRecord, times: Times, limits: Limits) -> Fault | None:
    """The first fault of a user update, or None."""
    names = [("regulation", name) for consent in record.consents for name in consent]
    fault = check_name("user_id", record.user_id, limits) or _time_fault(record.time)
    if fault is not None:
        return fault
    if record.time > times.latest:
        return "UPDATE_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    for key, identity in record.identities.items():
        names.append(("identities", key))
        if identity is not None and is_longer(identity, limits.string_bytes_max):
            field = f"identities[{key!r}]"
            return "VALUE_TOO_LONG", field, f"is longer than {limits.string_bytes_max} bytes"
    for field, name in names:
        fault = check_name("consents" if field == "regulation" else field, name, limits)
        if fault is not None:
            return fault
    return _attributes_fault(record.attributes, limits)


def check_name(field: str, name: str, limits: Limits) -> Fault | None:
    if not name:
        return "REQUIRED", field, "is required"
    if is_longer(name, limits.name_bytes_max):
        return "NAME_TOO_LONG", field, f"is longer than {limits.name_bytes_max} bytes"
    return None


def _time_fault(time: Micros) -> Fault | None:
    if TIME_MIN_MICROS <= time <= TIME_MAX_MICROS:
        return None
    return "INVALID_VALUE", "time", "is outside of the years 1 to 9999"


def _attributes_fault(attributes: Mapping[str, Value | None], limits: Limits) -> Fault | None:
    attributes_max = limits.event_attributes_max
    if len(attributes) > attributes_max:
        return (
            "TOO_MANY_ATTRIBUTES",
            "attributes",
            f"has {len(attributes)} attributes; at most {attributes_max} are allowed",
        )
    key_glance = limits.name_bytes_max // UTF8_BYTES_MAX
    text_glance = limits.string_bytes_max // UTF8_BYTES_MAX
    for key, value in attributes.items():
        # Fast path: nearly every attribute is a short string or a finite number under a short key.
        if 0 < len(key) <= key_glance and (
            len(value) <= text_glance if type(value) is str else type(value) is float and isfinite(value)
        ):
            continue
        fault = check_name("attributes", key, limits)
        if fault is None and value is not None:
            fault = check_value(f"attributes[{key!r}]", value, limits)
        if fault is not None:
            return fault
    return None


def check_value(field: str, value: Value, limits: Limits) -> Fault | None:
    match kind_of(value), value:
        case Kind.STRING, str(text) if is_longer(text, limits.string_bytes_max):
            return "VALUE_TOO_LONG", field, f"is longer than {limits.string_bytes_max} bytes"
        case Kind.NUMBER, float(number) if not isfinite(number):
            return "INVALID_VALUE", field, "must be a finite number"
        case Kind.TIME, int(time) if not TIME_MIN_MICROS <= time <= TIME_MAX_MICROS:
            return "INVALID_VALUE", field, "is outside of the years 1 to 9999"
        case Kind.LIST, tuple(items):
            if len(items) > limits.list_items_max:
                return "LIST_TOO_LONG", field, f"has more than {limits.list_items_max} elements"
            if any(is_longer(item, limits.list_item_bytes_max) for item in items):
                return (
                    "VALUE_TOO_LONG",
                    field,
                    f"has an element longer than {limits.list_item_bytes_max} bytes",
                )
    return None
