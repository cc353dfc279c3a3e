"""Criteria round-trip through messages and JSON; malformed messages are refused by path."""

from __future__ import annotations

import json

import msgspec
import pytest
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.model import Calendar, CalendarUnit, Criterion, Event, UserAttribute
from engine.errors import InvalidInput
from milepost.v1 import criteria_pb2
from service.convert.criteria import criteria_message, criterion_of
from tests.criteria_trees import criterion_from_tree, criterion_to_tree
from tests.oracle.generate import CriteriaDrawer
from tests.oracle.palette import Chooser, draw_palette

ACCOUNT = "accounts/a"
DEPTH_MAX = 3


def encoded(criterion: Criterion) -> bytes:
    """Bytes that tell kinds apart, which struct equality does not: Equals(1.0) == Equals(True)."""
    return msgspec.msgpack.encode(criterion)


@st.composite
def criteria(draw: st.DrawFn) -> Criterion:
    choose = Chooser(lambda limit: draw(st.integers(0, limit - 1)))
    palette = draw_palette(choose, ACCOUNT)
    drawer = CriteriaDrawer(choose, palette, palette.inputs, [f"{ACCOUNT}/audiences/x"])
    return drawer.criterion(choose.between(0, DEPTH_MAX))


@given(criteria())
def test_criterion_round_trips_through_protobuf(criterion: Criterion) -> None:
    wire = criteria_message(criterion).SerializeToString()
    assert encoded(criterion_of(criteria_pb2.Criteria.FromString(wire))) == encoded(criterion)


@given(criteria())
def test_criterion_round_trips_through_json_and_yaml(criterion: Criterion) -> None:
    tree = criterion_to_tree(criterion)
    assert encoded(criterion_from_tree(json.loads(json.dumps(tree)))) == encoded(criterion)
    assert encoded(criterion_from_tree(yaml.safe_load(yaml.safe_dump(tree)))) == encoded(criterion)


def test_a_criterion_reads_as_a_person_would_write_it() -> None:
    text = """
        all_of:
          criteria:
          - event:
              name: purchase
              where: {attribute: {key: department, test: {equals: {string_value: GROCERY}}}}
              window: {last: 2592000s}
              aggregate: AGGREGATE_SUM
              of: sales_value
              test: {greater_or_equal: 100}
          - label: adults
            userAttribute: {key: age, test: {between: {low: {number_value: 18}, high: {number_value: 99}}}}
    """
    criterion = criterion_from_tree(yaml.safe_load(text))
    assert criterion_to_tree(criterion) == {
        "all_of": {
            "criteria": [
                {
                    "event": {
                        "name": "purchase",
                        "where": {
                            "attribute": {
                                "key": "department",
                                "test": {"equals": {"string_value": "GROCERY"}},
                            }
                        },
                        "window": {"last": "2592000s"},
                        "aggregate": "AGGREGATE_SUM",
                        "of": "sales_value",
                        "test": {"greater_or_equal": 100.0},
                    }
                },
                {
                    "label": "adults",
                    "user_attribute": {
                        "key": "age",
                        "test": {"between": {"low": {"number_value": 18.0}, "high": {"number_value": 99.0}}},
                    },
                },
            ]
        }
    }


def test_an_unset_calendar_count_is_one() -> None:
    message = criteria_pb2.Criteria()
    message.event.window.calendar.unit = criteria_pb2.CALENDAR_UNIT_WEEK
    criterion = criterion_of(message)
    assert isinstance(criterion, Event)
    assert criterion.window == Calendar(unit=CalendarUnit.WEEK, count=1)


def test_a_string_and_a_bool_keep_their_kinds() -> None:
    message = criteria_pb2.Criteria()
    values = message.user_attribute.test.one_of.values
    values.add().string_value = ""
    values.add().number_value = 0.0
    values.add().bool_value = False
    values.add().list_value.SetInParent()
    values.add().time_value.SetInParent()
    message.user_attribute.key = "k"
    criterion = criterion_of(message)
    assert isinstance(criterion, UserAttribute)
    read = getattr(criterion.test, "values")  # noqa: B009 - the test is one of several structs
    assert [(type(value), value) for value in read] == [
        (str, ""),
        (float, 0.0),
        (bool, False),
        (tuple, ()),
        (int, 0),
    ]


REFUSED = [
    ("", [("criteria", "must have exactly one node")]),
    ("all_of { criteria {} }", [("criteria.all_of.criteria[0]", "must have exactly one node")]),
    ("negation {}", [("criteria.not", "must have exactly one node")]),
    ("user_attribute { key: 'k' }", [("criteria.user_attribute.test", "must have exactly one test")]),
    (
        "user_attribute { key: 'k' test { equals {} } }",
        [
            (
                "criteria.user_attribute.test.equals",
                "must have exactly one of string_value, number_value, bool_value, time_value, list_value; "
                "for users without a value, put `not` around `exists`",
            )
        ],
    ),
    (
        "user_attribute { key: 'k' test { less_than { string_value: 'a' } } }",
        [("criteria.user_attribute.test.less_than", "must be a number or a time")],
    ),
    *(
        (
            f"event {{ condition {{ attribute {{ key: 'k' test {{ ignore_case: true {test} }} }} }} }}",
            [
                (
                    "criteria.event.where.attribute.test.ignore_case",
                    "does not apply to this test; leave it out",
                )
            ],
        )
        for test in (
            "exists {}",
            "less_than { number_value: 1 }",
            "between { low { number_value: 1 } high { number_value: 2 } }",
            "semver { equals: '1.0' }",
            "within_last { seconds: 1 }",
            "older_than { seconds: 1 }",
            "near {}",
        )
    ),
    (
        "identity { identity_type: 'email' test { semver {} } }",
        [("criteria.identity.test.semver", "must have exactly one comparison")],
    ),
    (
        "event { window { time_range { start { seconds: 253402300800 } } } }",
        [
            (
                "criteria.event.window.range.start",
                "must lie in the years 1 to 9999, with 0 to 999,999,999 nanoseconds",
            )
        ],
    ),
    (
        "event { window { last { seconds: 1 nanos: -1 } } }",
        [
            (
                "criteria.event.window.last",
                "must be within 10,000 years, with seconds and nanoseconds of one sign",
            )
        ],
    ),
    (
        "event { window { calendar {} } }",
        [("criteria.event.window.calendar.unit", "must be a calendar unit")],
    ),
    (
        "event { condition { any_of { conditions {} } } }",
        [("criteria.event.where.any_of.conditions[0]", "must have exactly one condition")],
    ),
    ("event { event_type: 77 }", [("criteria.event.type", "is not an event type")]),
    (
        "event { aggregate: 77 test {} }",
        [
            ("criteria.event.aggregate", "is not an aggregate"),
            ("criteria.event.test", "must have exactly one test"),
        ],
    ),
    (
        "consent { regulation: 'gdpr' purpose: 'ads' }",
        [("criteria.consent.state", "must be GIVEN or DENIED")],
    ),
    ("sequence { steps { event_type: 77 } }", [("criteria.sequence.steps[0].type", "is not an event type")]),
]


@pytest.mark.parametrize(("text", "faults"), REFUSED)
def test_malformed_message_is_refused_with_every_path(text: str, faults: list[tuple[str, str]]) -> None:
    message = criteria_pb2.Criteria()
    text_format.Parse(text, message)
    with pytest.raises(InvalidInput) as refusal:
        criterion_of(message)
    assert [(v.field, v.description) for v in refusal.value.violations] == faults
    assert refusal.value.reason == "INVALID_CRITERIA"
