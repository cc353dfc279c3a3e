"""Each builder returns the expected message, shown as proto3 JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from milepost.criteria import (
    all_of,
    any_of,
    attribute,
    audience,
    between_ago,
    bucket,
    calendar,
    consent,
    event,
    event_attribute,
    everyone,
    identity,
    labelled,
    last,
    not_,
    sequence,
    step,
    time_range,
)
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, EVENT_TYPE_SCREEN_VIEW

NOON = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
DAY = timedelta(days=1)


def json(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message)


def passing(test: dict[str, Any]) -> dict[str, Any]:
    return {"userAttribute": {"key": "k", "test": test}}


@pytest.mark.parametrize(
    ("built", "test"),
    [
        (attribute("k").exists(), {"exists": {}}),
        (attribute("k").equals("12"), {"equals": {"stringValue": "12"}}),
        (attribute("k").equals(12), {"equals": {"numberValue": 12.0}}),
        (attribute("k").equals(True), {"equals": {"boolValue": True}}),
        (attribute("k").equals(NOON), {"equals": {"timeValue": "2026-03-01T12:00:00.000005Z"}}),
        (attribute("k").equals(["a", "b"]), {"equals": {"listValue": {"values": ["a", "b"]}}}),
        (
            attribute("k").equals("Pro", ignore_case=True),
            {"equals": {"stringValue": "Pro"}, "ignoreCase": True},
        ),
        (attribute("k").one_of(["a", 1]), {"in": {"values": [{"stringValue": "a"}, {"numberValue": 1.0}]}}),
        (attribute("k").one_of([]), {"in": {}}),
        (attribute("k") > 1, {"greaterThan": {"numberValue": 1.0}}),
        (attribute("k") >= 1.5, {"greaterOrEqual": {"numberValue": 1.5}}),
        (attribute("k") < -1, {"lessThan": {"numberValue": -1.0}}),
        (attribute("k") <= NOON, {"lessOrEqual": {"timeValue": "2026-03-01T12:00:00.000005Z"}}),
        (
            attribute("k").between(1, 2),
            {"between": {"low": {"numberValue": 1.0}, "high": {"numberValue": 2.0}}},
        ),
        (attribute("k").contains("x"), {"contains": "x"}),
        (attribute("k").starts_with("x", ignore_case=True), {"startsWith": "x", "ignoreCase": True}),
        (attribute("k").ends_with("x"), {"endsWith": "x"}),
        (attribute("k").glob("a*b?"), {"glob": "a*b?"}),
        (attribute("k").matches("^a+$"), {"matches": "^a+$"}),
        (attribute("k").version.equals("1.2.3"), {"semver": {"equals": "1.2.3"}}),
        (attribute("k").version > "1.2.3", {"semver": {"greaterThan": "1.2.3"}}),
        (attribute("k").version >= "1.2.3", {"semver": {"greaterOrEqual": "1.2.3"}}),
        (attribute("k").version < "2.0.0-rc.1", {"semver": {"lessThan": "2.0.0-rc.1"}}),
        (attribute("k").version <= "2", {"semver": {"lessOrEqual": "2"}}),
        (attribute("k").within_last(DAY), {"withinLast": "86400s"}),
        (attribute("k").older_than(timedelta(microseconds=1)), {"olderThan": "0.000001s"}),
        (
            attribute("k").near(52.5, 13.4, meters=500),
            {"near": {"latitude": 52.5, "longitude": 13.4, "meters": 500.0}},
        ),
    ],
)
def test_every_test_on_a_user_attribute(built: Criteria, test: dict[str, Any]) -> None:
    assert json(built) == passing(test)


def counting(**fields: Any) -> dict[str, Any]:
    return {"event": {"name": "buy", **fields}}


BUY = event("buy")


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (BUY.happened(), counting()),
        (BUY.never(), {"not": counting()}),
        (BUY.count() >= 3, counting(aggregate="AGGREGATE_COUNT", test={"greaterOrEqual": 3.0})),
        (BUY.count().equals(0), counting(aggregate="AGGREGATE_COUNT", test={"equals": 0.0})),
        (
            BUY.count().one_of([1, 3]),
            counting(aggregate="AGGREGATE_COUNT", test={"in": {"values": [1.0, 3.0]}}),
        ),
        (BUY.count().one_of([]), counting(aggregate="AGGREGATE_COUNT", test={"in": {}})),
        (BUY.distinct_days() > 2, counting(aggregate="AGGREGATE_DISTINCT_DAYS", test={"greaterThan": 2.0})),
        (BUY.sum("p") < 9.5, counting(aggregate="AGGREGATE_SUM", of="p", test={"lessThan": 9.5})),
        (BUY.average("p") <= 1, counting(aggregate="AGGREGATE_AVERAGE", of="p", test={"lessOrEqual": 1.0})),
        (
            BUY.min("p").between(1, 2),
            counting(aggregate="AGGREGATE_MIN", of="p", test={"between": {"low": 1.0, "high": 2.0}}),
        ),
        (BUY.max("p") > 1, counting(aggregate="AGGREGATE_MAX", of="p", test={"greaterThan": 1.0})),
        (BUY.distinct("p") > 1, counting(aggregate="AGGREGATE_DISTINCT", of="p", test={"greaterThan": 1.0})),
        (BUY.first("p") > 1, counting(aggregate="AGGREGATE_FIRST", of="p", test={"greaterThan": 1.0})),
        (BUY.latest("p") > 1, counting(aggregate="AGGREGATE_LAST", of="p", test={"greaterThan": 1.0})),
        (
            event("buy", inputs=["i"], type=EVENT_TYPE_COMMERCE, last=DAY).happened(),
            counting(inputs=["i"], type="EVENT_TYPE_COMMERCE", window={"last": "86400s"}),
        ),
        (event("buy", window=last(DAY)).happened(), counting(window={"last": "86400s"})),
        (
            event("buy", window=between_ago(2 * DAY, DAY)).happened(),
            counting(window={"betweenAgo": {"from": "172800s", "to": "86400s"}}),
        ),
        (
            event("buy", window=time_range(NOON, NOON + DAY)).happened(),
            counting(
                window={
                    "range": {"start": "2026-03-01T12:00:00.000005Z", "end": "2026-03-02T12:00:00.000005Z"}
                }
            ),
        ),
        (
            event("buy", window=time_range(end=NOON)).happened(),
            counting(window={"range": {"end": "2026-03-01T12:00:00.000005Z"}}),
        ),
        (
            event("buy", window=calendar("week", count=2, offset=1, time_zone="Europe/Paris")).happened(),
            counting(
                window={
                    "calendar": {
                        "unit": "CALENDAR_UNIT_WEEK",
                        "count": 2,
                        "offset": 1,
                        "timeZone": "Europe/Paris",
                    }
                }
            ),
        ),
    ],
)
def test_every_aggregate_test_and_window(built: Criteria, expected: dict[str, Any]) -> None:
    assert json(built) == expected


def test_where_accepts_all_of_any_of_and_not() -> None:
    where = all_of(
        event_attribute("price") > 10,
        any_of(event_attribute("gift").exists(), event_attribute("code").starts_with("X")),
        not_(event_attribute("returned").equals(True)),
    )
    gift = {"attribute": {"key": "gift", "test": {"exists": {}}}}
    code = {"attribute": {"key": "code", "test": {"startsWith": "X"}}}
    returned = {"attribute": {"key": "returned", "test": {"equals": {"boolValue": True}}}}
    assert json(event("buy", where=where).happened()) == counting(
        where={
            "allOf": {
                "conditions": [
                    {"attribute": {"key": "price", "test": {"greaterThan": {"numberValue": 10.0}}}},
                    {"anyOf": {"conditions": [gift, code]}},
                    {"not": returned},
                ]
            }
        }
    )


PRO = attribute("plan").equals("pro")
PRO_JSON = {"userAttribute": {"key": "plan", "test": {"equals": {"stringValue": "pro"}}}}


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (everyone(), {"allOf": {}}),
        (all_of(), {"allOf": {}}),
        (any_of(), {"anyOf": {}}),
        (all_of(PRO, event("buy")), {"allOf": {"criteria": [PRO_JSON, counting()]}}),
        (any_of(PRO, not_(PRO)), {"anyOf": {"criteria": [PRO_JSON, {"not": PRO_JSON}]}}),
        (not_(event("buy")), {"not": counting()}),
        (labelled("Pro", PRO), {"label": "Pro", **PRO_JSON}),
        (audience("accounts/a/audiences/x"), {"audience": {"name": "accounts/a/audiences/x"}}),
        (
            consent("gdpr", "marketing"),
            {"consent": {"regulation": "gdpr", "purpose": "marketing", "state": "CONSENT_STATE_GIVEN"}},
        ),
        (
            consent("gdpr", "marketing", given=False),
            {"consent": {"regulation": "gdpr", "purpose": "marketing", "state": "CONSENT_STATE_DENIED"}},
        ),
        (
            identity("email").ends_with("@example.com", ignore_case=True),
            {"identity": {"type": "email", "test": {"endsWith": "@example.com", "ignoreCase": True}}},
        ),
        (bucket("s", 0, 12.5), {"bucket": {"salt": "s", "toPercent": 12.5}}),
        (
            sequence(
                step("view", type=EVENT_TYPE_SCREEN_VIEW),
                step("buy", where=event_attribute("price") > 1, inputs=["i"]),
                within=timedelta(hours=1),
                window=last(DAY),
            ),
            {
                "sequence": {
                    "steps": [
                        {"name": "view", "type": "EVENT_TYPE_SCREEN_VIEW"},
                        {
                            "name": "buy",
                            "where": {
                                "attribute": {"key": "price", "test": {"greaterThan": {"numberValue": 1.0}}}
                            },
                            "inputs": ["i"],
                        },
                    ],
                    "within": "3600s",
                    "window": {"last": "86400s"},
                }
            },
        ),
    ],
)
def test_every_set_of_users(built: Criteria, expected: dict[str, Any]) -> None:
    assert json(built) == expected


def test_label_does_not_change_the_original() -> None:
    labelled("Pro", PRO)
    assert json(PRO) == PRO_JSON


def test_aggregate_does_not_change_the_events() -> None:
    events = event("buy")
    _ = events.sum("price") > 1
    assert json(events.happened()) == counting()


def test_every_node_of_the_language_has_a_builder() -> None:
    built = [
        everyone(),
        any_of(),
        not_(PRO),
        PRO,
        event().happened(),
        sequence(step("a")),
        audience("x"),
        consent("r", "p"),
        identity("email").exists(),
        bucket("s", 0, 1),
    ]
    nodes = {field.name for field in Criteria.DESCRIPTOR.oneofs_by_name["node"].fields}
    assert {criterion.WhichOneof("node") for criterion in built} == nodes


def test_a_time_in_another_zone_is_the_same_instant() -> None:
    in_paris = NOON.astimezone(timezone(timedelta(hours=1)))
    assert attribute("k").equals(in_paris) == attribute("k").equals(NOON)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        attribute("k").equals(datetime(2026, 3, 1))


def test_number_without_exact_double_is_refused() -> None:
    with pytest.raises(ValueError, match="9007199254740993 cannot be represented exactly"):
        attribute("k").equals(2**53 + 1)


def test_a_window_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="`last` or `window`, not both"):
        event("buy", last=DAY, window=last(DAY))


def test_conditions_and_criteria_cannot_be_combined() -> None:
    with pytest.raises(TypeError, match="cannot combine conditions"):
        all_of(PRO, event_attribute("price") > 1)  # type: ignore[call-overload]


def test_python_comparison_is_not_a_criterion() -> None:
    with pytest.raises(TypeError):
        all_of(event("buy").count() == 0)  # type: ignore[call-overload]
