"""Checks of one event or one user update against the limits."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import NamedTuple, TypeAlias

from engine.backends.base import EventRecord, UserRecord
from engine.criteria.model import BUILT_IN_ATTRIBUTES
from engine.limits import UPDATE_CONSENTS_MAX, UPDATE_IDENTITIES_MAX, Limits
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Kind, Micros, Value, kind_of

UTF8_BYTES_MAX = 4
EVENT_AHEAD_MAX = MICROS_PER_DAY
"""Maximum time of an event ahead of the server's clock."""

QUOTED_CHARACTERS_MAX = 64
"""Characters of a caller's text in a description."""

Fault: TypeAlias = tuple[str, str, str]
"""Reason, field within the row ("" = the row itself), description."""


class Times(NamedTuple):
    """Range of valid times. `oldest` None = no limit."""

    oldest: Micros | None
    latest: Micros

    @classmethod
    def by_clock(cls, bounds: tuple[Micros, Micros], retention: Micros = 0) -> Times:
        """The widest range that any reading of the clock allows: a wrong clock refuses nothing that the right
        one would accept. `retention` 0 = keep all.
        """
        earliest, latest = bounds
        return cls(earliest - retention if retention else None, latest + EVENT_AHEAD_MAX)


def is_longer(text: str, bytes_max: int) -> bool:
    """Whether the text has more than `bytes_max` bytes of UTF-8. Encodes long texts only."""
    return len(text) * UTF8_BYTES_MAX > bytes_max and len(text.encode()) > bytes_max


def shortened(text: str) -> str:
    """The text, cut so that a description can quote it."""
    return text if len(text) <= QUOTED_CHARACTERS_MAX else text[:QUOTED_CHARACTERS_MAX] + "…"


def check_event(record: EventRecord, times: Times, limits: Limits) -> Fault | None:
    """The first fault of an event, or None."""
    fault = (
        check_name("user_id", record.user_id, limits)
        or check_name("name", record.name, limits)
        or _time_fault(record.time)
    )
    if fault is not None:
        return fault
    if times.oldest is not None and record.time < times.oldest:
        return "EVENT_TOO_OLD", "time", "is older than the account's event retention"
    if record.time > times.latest:
        return "EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    if is_longer(record.event_id, limits.name_bytes_max):
        return "VALUE_TOO_LONG", "event_id", f"is longer than {limits.name_bytes_max} bytes"
    return _attributes_fault(record.attributes, limits)


def check_user(record: UserRecord, times: Times, limits: Limits) -> Fault | None:
    """The first fault of a user update, or None."""
    names = [("regulation", name) for consent in record.consents for name in consent]
    fault = check_name("user_id", record.user_id, limits) or _time_fault(record.time)
    if fault is not None:
        return fault
    if record.time > times.latest:
        return "UPDATE_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"
    fault = identity_count_fault(len(record.identities)) or consent_count_fault(len(record.consents))
    if fault is not None:
        return fault
    for key, identity in record.identities.items():
        names.append(("identities", key))
        if identity is not None and is_longer(identity, limits.string_bytes_max):
            field = f"identities[{key!r}]"
            return "VALUE_TOO_LONG", field, f"is longer than {limits.string_bytes_max} bytes"
    for field, name in names:
        fault = check_key("consents" if field == "regulation" else field, name, limits)
        if fault is not None:
            return fault
    for key, value in record.attributes.items():
        if value is not None and (fault := built_in_fault(key)) is not None:
            return fault
    return _attributes_fault(record.attributes, limits)


def built_in_fault(key: str) -> Fault | None:
    """The fault of an attribute of users that no criteria can read, as its name means something built in."""
    if key not in BUILT_IN_ATTRIBUTES:
        return None
    return "RESERVED_NAME", f"attributes[{key!r}]", "is built in: criteria would not see the value; rename it"


def check_name(field: str, name: str, limits: Limits) -> Fault | None:
    if not name:
        return "REQUIRED", field, "is required"
    if is_longer(name, limits.name_bytes_max):
        return "NAME_TOO_LONG", field, f"is longer than {limits.name_bytes_max} bytes"
    return None


def attribute_count_fault(count: int, limits: Limits) -> Fault | None:
    """The fault of a row with more attributes than allowed, set and unset ones together."""
    return _count_fault("attributes", count, limits.event_attributes_max)


def identity_count_fault(count: int) -> Fault | None:
    """The fault of an update with more identities than allowed, set and unset ones together."""
    return _count_fault("identities", count, UPDATE_IDENTITIES_MAX)


def consent_count_fault(count: int) -> Fault | None:
    """The fault of an update with more consents than allowed."""
    return _count_fault("consents", count, UPDATE_CONSENTS_MAX)


def _count_fault(field: str, count: int, count_max: int) -> Fault | None:
    if count <= count_max:
        return None
    return f"TOO_MANY_{field.upper()}", field, f"has {count} {field}; at most {count_max} are allowed"


def list_length_fault(field: str, length: int, limits: Limits) -> Fault | None:
    """The fault of a list value with more elements than allowed."""
    if length <= limits.list_items_max:
        return None
    return "LIST_TOO_LONG", field, f"has {length} elements; at most {limits.list_items_max} are allowed"


def check_key(field: str, key: str, limits: Limits) -> Fault | None:
    """As `check_name`, for a key of a map; the fault says which."""
    fault = check_name(field, key, limits)
    if fault is None or not key:
        return fault
    reason, _, description = fault
    return reason, f"{field}[{shortened(key)!r}]", description


def _time_fault(time: Micros) -> Fault | None:
    if TIME_MIN_MICROS <= time <= TIME_MAX_MICROS:
        return None
    return "INVALID_VALUE", "time", "is outside of the years 1 to 9999"


def _attributes_fault(attributes: Mapping[str, Value | None], limits: Limits) -> Fault | None:
    fault = attribute_count_fault(len(attributes), limits)
    if fault is not None:
        return fault
    key_glance = limits.name_bytes_max // UTF8_BYTES_MAX
    text_glance = limits.string_bytes_max // UTF8_BYTES_MAX
    for key, value in attributes.items():
        # Fast path: nearly every attribute is a short string or a finite number under a short key.
        if 0 < len(key) <= key_glance and (
            len(value) <= text_glance if type(value) is str else type(value) is float and isfinite(value)
        ):
            continue
        fault = check_key("attributes", key, limits)
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
            fault = list_length_fault(field, len(items), limits)
            if fault is not None:
                return fault
            if any(is_longer(item, limits.list_item_bytes_max) for item in items):
                return (
                    "VALUE_TOO_LONG",
                    field,
                    f"has an element longer than {limits.list_item_bytes_max} bytes",
                )
    return None
