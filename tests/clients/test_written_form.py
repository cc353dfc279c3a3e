"""Documents are written with JSON names in snake case, whatever the fields of the messages are called."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from milepost.criteria import (
    all_of,
    attribute,
    between_ago,
    event,
    event_attribute,
    identity,
    not_,
    sequence,
    time_range,
)
from milepost.criteria import step as made_step
from milepost.documents import dumps_criteria, loads_criteria
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, Event, UserUpdate
from milepost.v1.value_pb2 import Value
from milepost.written_form import written

DAY = timedelta(days=1)


@pytest.mark.parametrize(
    ("message", "tree"),
    [
        (not_(attribute("k").exists()), {"not": {"user_attribute": {"key": "k", "test": {"exists": {}}}}}),
        (
            attribute("k").one_of(["a"], ignore_case=True),
            {
                "user_attribute": {
                    "key": "k",
                    "test": {"ignore_case": True, "in": {"values": [{"string_value": "a"}]}},
                }
            },
        ),
        (
            event(
                "buy",
                type=EVENT_TYPE_COMMERCE,
                where=not_(event_attribute("price") > 1),
                window=between_ago(2 * DAY, DAY),
            )
            .count()
            .one_of([1, 2]),
            {
                "event": {
                    "name": "buy",
                    "type": "EVENT_TYPE_COMMERCE",
                    "where": {
                        "not": {
                            "attribute": {"key": "price", "test": {"greater_than": {"number_value": 1.0}}}
                        }
                    },
                    "window": {"between_ago": {"from": "172800s", "to": "86400s"}},
                    "aggregate": "AGGREGATE_COUNT",
                    "test": {"in": {"values": [1.0, 2.0]}},
                }
            },
        ),
        (
            sequence(made_step(type=EVENT_TYPE_COMMERCE, where=all_of(event_attribute("k").exists()))),
            {
                "sequence": {
                    "steps": [
                        {
                            "type": "EVENT_TYPE_COMMERCE",
                            "where": {
                                "all_of": {
                                    "conditions": [{"attribute": {"key": "k", "test": {"exists": {}}}}]
                                }
                            },
                        }
                    ]
                }
            },
        ),
        (
            event(window=time_range()).happened(),
            {"event": {"window": {"range": {}}}},
        ),
        (identity("email").exists(), {"identity": {"type": "email", "test": {"exists": {}}}}),
        (
            Event(
                user_id="ann",
                event_type=EVENT_TYPE_COMMERCE,
                attributes={"fullName": Value(string_value="x")},
            ),
            {
                "user_id": "ann",
                "type": "EVENT_TYPE_COMMERCE",
                "attributes": {"fullName": {"string_value": "x"}},
            },
        ),
        (UserUpdate(identities={"deviceId": "d"}), {"identities": {"deviceId": "d"}}),
    ],
)
def test_a_message_is_written_and_read_back(message: Message, tree: dict[str, Any]) -> None:
    assert written(message) == tree
    assert json_format.ParseDict(tree, type(message)()) == message


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (900, "900"),
        (-3, "-3"),
        (0, "0"),
        (9.5, "9.5"),
        (2.0**53, "9007199254740992"),
        (1e300, "1e+300"),
        (0.1, "0.1"),
    ],
)
def test_a_number_is_written_as_people_write_it(number: float, text: str) -> None:
    """In tests of values, in conditions on events, and in lists of values."""
    assert str(written(Value(number_value=number))) == f"{{'number_value': {text}}}"
    several = written(event("buy").count().one_of([number, 2]).event.test)
    assert str(several) == f"{{'in': {{'values': [{text}, 2]}}}}"
    criteria = attribute("spent").equals(number)
    assert loads_criteria(dumps_criteria(criteria)) == criteria


def test_documents_with_the_names_of_the_messages_are_read_too() -> None:
    tree: dict[str, Any] = {"negation": {"allOf": {"criteria": []}}}
    assert written(json_format.ParseDict(tree, Criteria())) == {"not": {"all_of": {}}}


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(days=30), "30d"),
        (timedelta(days=1, seconds=1), "86401s"),
        (timedelta(hours=36), "129600s"),
        (timedelta(days=2, microseconds=1), "172800.000001s"),
        (timedelta(0), "0s"),
    ],
)
def test_documents_have_whole_days_as_people_write_them(length: timedelta, text: str) -> None:
    built = event("buy", last=length).happened()
    assert f"last: {text}\n" in dumps_criteria(built)
    assert loads_criteria(dumps_criteria(built)) == built
