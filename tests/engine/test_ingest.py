"""Rows at the door: each limit at its edge, the field named, and the rows beside a refused one taken."""

from __future__ import annotations

import math

import pytest

from engine.backend import EventRecord, UserRecord
from engine.criteria.model import ConsentState, EventType
from engine.ingest import EVENT_AHEAD_MAX, Fault, check_event, check_user
from engine.limits import Limits
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros, Value

NOW: Micros = 1_700_000_000_000_000
LIMITS = Limits(
    event_attributes_max=3, name_bytes_max=8, string_bytes_max=12, list_items_max=2, list_item_bytes_max=4
)
INPUT = "accounts/a/workspaces/w/inputs/i"


def event(
    user_id: str = "ann",
    name: str = "buy",
    time: Micros = NOW,
    attributes: dict[str, Value] | None = None,
    event_id: str = "",
) -> EventRecord:
    return EventRecord(user_id, INPUT, name, EventType.CUSTOM, time, attributes or {}, event_id)


def fault_of(record: EventRecord, retention: Micros = 0) -> tuple[str, str] | None:
    return _short(check_event(record, NOW, retention, LIMITS))


def _short(fault: Fault | None) -> tuple[str, str] | None:
    return None if fault is None else fault[:2]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"k": "x" * 12},
        {"k": "é" * 6},
        {"é" * 4: 1.0},
        {"k": 1e308, "l": True, "m": NOW},
        {"k": ("four", "four")},
        {"k": ()},
        {"k": TIME_MIN_MICROS, "l": TIME_MAX_MICROS},
        {"k": ""},
    ],
)
def test_attributes_up_to_the_limits_pass(attributes: dict[str, Value]) -> None:
    assert fault_of(event(attributes=attributes)) is None


@pytest.mark.parametrize(
    ("attributes", "reason", "field"),
    [
        ({"k": "x" * 13}, "VALUE_TOO_LONG", "attributes['k']"),
        ({"k": "é" * 6 + "x"}, "VALUE_TOO_LONG", "attributes['k']"),
        ({"": 1.0}, "REQUIRED", "attributes"),
        ({"é" * 4 + "x": "x"}, "NAME_TOO_LONG", "attributes"),
        ({"k": math.nan}, "INVALID_VALUE", "attributes['k']"),
        ({"k": -math.inf}, "INVALID_VALUE", "attributes['k']"),
        ({"k": TIME_MAX_MICROS + 1}, "INVALID_VALUE", "attributes['k']"),
        ({"k": ("a", "b", "c")}, "LIST_TOO_LONG", "attributes['k']"),
        ({"k": ("fives",)}, "VALUE_TOO_LONG", "attributes['k']"),
        ({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, "TOO_MANY_ATTRIBUTES", "attributes"),
        ({"fine": "x", "k": math.inf}, "INVALID_VALUE", "attributes['k']"),
    ],
)
def test_an_attribute_beyond_a_limit_is_named(attributes: dict[str, Value], reason: str, field: str) -> None:
    assert fault_of(event(attributes=attributes)) == (reason, field)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (event(user_id=""), ("REQUIRED", "user_id")),
        (event(user_id="u" * 8), None),
        (event(user_id="u" * 9), ("NAME_TOO_LONG", "user_id")),
        (event(name=""), ("REQUIRED", "name")),
        (event(event_id="e" * 9), ("VALUE_TOO_LONG", "event_id")),
        (event(time=NOW + EVENT_AHEAD_MAX), None),
        (event(time=NOW + EVENT_AHEAD_MAX + 1), ("EVENT_IN_FUTURE", "time")),
        (event(time=TIME_MIN_MICROS - 1), ("INVALID_VALUE", "time")),
    ],
)
def test_users_names_ids_and_times(record: EventRecord, expected: tuple[str, str] | None) -> None:
    assert fault_of(record) == expected


def test_retention_keeps_its_own_edge() -> None:
    assert fault_of(event(time=NOW - 5), retention=5) is None
    assert fault_of(event(time=NOW - 6), retention=5) == ("EVENT_TOO_OLD", "time")


def test_user_updates_are_held_to_the_same_limits() -> None:
    def fault(**fields: object) -> tuple[str, str] | None:
        return _short(check_user(UserRecord("ann", INPUT, NOW, **fields), NOW, LIMITS))  # type: ignore[arg-type]

    assert fault(attributes={"gone": None, "k": "x"}) is None
    assert fault(attributes={"k": "x" * 13}) == ("VALUE_TOO_LONG", "attributes['k']")
    assert fault(identities={"email": "x" * 13}) == ("VALUE_TOO_LONG", "identities['email']")
    assert fault(identities={"": "x"}) == ("REQUIRED", "identities")
    assert fault(consents={("gdpr", ""): ConsentState.GIVEN}) == ("REQUIRED", "consents")
    assert fault(consents={("gdpr", "ads"): ConsentState.GIVEN}) is None
