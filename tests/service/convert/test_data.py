"""Events and user updates become records, row by row; users become messages."""

from __future__ import annotations

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.base import EventRecord, Profile, UserRecord
from engine.criteria.model import ConsentState, EventType
from engine.ingest import Rejection
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros, Value
from milepost.v1 import data_pb2, value_pb2
from service.convert.data import event_records, user_message, user_records
from service.convert.times import timestamp
from service.convert.values import fill_value, value_of

INPUT = "accounts/a/workspaces/w/inputs/i"
NOW = 1_700_000_000_000_000

values = st.one_of(
    st.text(max_size=5),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.integers(TIME_MIN_MICROS, TIME_MAX_MICROS),
    st.lists(st.text(max_size=3), max_size=3).map(tuple),
)
attributes = st.dictionaries(st.text(min_size=1, max_size=3), values, max_size=4)


def event(time: Micros = NOW, **fields: object) -> data_pb2.Event:
    return data_pb2.Event(**({"user_id": "u", "name": "buy", "time": timestamp(time)} | fields))  # type: ignore[arg-type]


@given(attributes, st.integers(TIME_MIN_MICROS, TIME_MAX_MICROS), st.sampled_from(EventType))
def test_an_event_becomes_a_record(read: dict[str, Value], time: Micros, type_: EventType) -> None:
    message = event(time, event_type=int(type_), event_id="e1")
    for key, value in read.items():
        fill_value(message.attributes[key], value)
    (row,) = event_records([data_pb2.Event.FromString(message.SerializeToString())], INPUT)
    assert isinstance(row, EventRecord)
    assert row == EventRecord("u", INPUT, "buy", type_, time, row.attributes, "e1")
    # Kinds apart: 1.0 == True == 1.
    assert {k: repr(v) for k, v in row.attributes.items()} == {k: repr(v) for k, v in read.items()}


def test_defaults_of_an_event() -> None:
    rows = event_records([event(), event(input="accounts/a/workspaces/w/inputs/own", time=0)], INPUT)
    assert rows == [
        EventRecord("u", INPUT, "buy", EventType.CUSTOM, NOW, {}, ""),
        EventRecord("u", "accounts/a/workspaces/w/inputs/own", "buy", EventType.CUSTOM, 0, {}, ""),
    ]


def test_a_value_without_a_kind_is_null() -> None:
    message = event()
    message.attributes["none"].SetInParent()
    message.attributes["some"].bool_value = False
    [row] = event_records([message], INPUT)
    assert isinstance(row, EventRecord)
    assert row.attributes == {"some": False}
    update = data_pb2.UserUpdate(user_id="u", attributes=message.attributes, unset_attributes=["none"])
    [user] = user_records([update], INPUT, NOW)
    assert isinstance(user, UserRecord)
    assert user.attributes == {"none": None, "some": False}


def test_malformed_rows_are_rejected_by_index() -> None:
    timeless = data_pb2.Event(user_id="u", name="buy")
    ancient = event()
    ancient.attributes["it's"].time_value.nanos = -1
    late = event()
    late.time.seconds = 253_402_300_800
    rows = event_records([event(), timeless, ancient, late, event(event_type=99)], INPUT)
    assert [(row.index, row.reason, row.field) for row in rows if isinstance(row, Rejection)] == [
        (1, "REQUIRED", "events[1].time"),
        (2, "INVALID_VALUE", 'events[2].attributes["it\'s"]'),
        (3, "INVALID_VALUE", "events[3].time"),
        (4, "INVALID_VALUE", "events[4].type"),
    ]
    assert isinstance(rows[0], EventRecord)


def test_a_user_update_becomes_a_record() -> None:
    message = data_pb2.UserUpdate(
        user_id="u",
        time=timestamp(5),
        unset_attributes=["old"],
        unset_identities=["phone"],
        identities={"email": "u@example.com"},
        consents=[
            data_pb2.ConsentUpdate(regulation="gdpr", purpose="ads", state=data_pb2.CONSENT_STATE_DENIED)
        ],
    )
    message.attributes["tier"].string_value = "gold"
    rows = user_records([message, data_pb2.UserUpdate(user_id="v")], INPUT, NOW)
    assert rows == [
        UserRecord(
            "u",
            INPUT,
            5,
            {"old": None, "tier": "gold"},
            {"phone": None, "email": "u@example.com"},
            {("gdpr", "ads"): ConsentState.DENIED},
        ),
        UserRecord("v", INPUT, NOW, {}, {}, {}),
    ]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (
            data_pb2.UserUpdate(attributes={"x": value_pb2.Value(bool_value=True)}, unset_attributes=["x"]),
            "attributes['x']",
        ),
        (data_pb2.UserUpdate(identities={"x": "y"}, unset_identities=["x"]), "identities['x']"),
        (data_pb2.UserUpdate(consents=[data_pb2.ConsentUpdate()]), "consents[0].state"),
        (data_pb2.UserUpdate(time=Timestamp(nanos=-1)), "time"),
    ],
)
def test_malformed_user_update_is_rejected(message: data_pb2.UserUpdate, field: str) -> None:
    (row,) = user_records([message], INPUT, NOW)
    assert isinstance(row, Rejection)
    assert row.field == f"users[0].{field}"


def test_a_user_becomes_a_message() -> None:
    profile = Profile(
        user_id="u",
        seen={INPUT: (1, 2)},
        attributes={"accounts/a/workspaces/w": {"tier": (1, "gold"), "visits": (1, 3.0)}},
        identities={"email": (1, "u@example.com")},
        consents={("gdpr", "ads"): (1, ConsentState.GIVEN)},
    )
    message = user_message(profile)
    assert (message.user_id, dict(message.identities)) == ("u", {"email": "u@example.com"})
    assert [(i.input, i.first_seen.nanos, i.last_seen.nanos) for i in message.inputs] == [
        (INPUT, 1_000, 2_000)
    ]
    (kept,) = message.attributes
    assert {key: value_of(value) for key, value in kept.attributes.items()} == {"tier": "gold", "visits": 3.0}
    assert [(c.regulation, c.purpose, c.state) for c in message.consents] == [
        ("gdpr", "ads", data_pb2.CONSENT_STATE_GIVEN)
    ]
