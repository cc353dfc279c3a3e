"""Every call of the contract that takes criteria answers with the warnings about them.

The calls are found by reflection: those whose request has a `Criteria` in it, however deep. One without a
case here fails, and so does one whose answer has no warnings.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from milepost import Client
from milepost.data import make_event, make_user_update
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Serving, serving
from tests.spec.scenario import METHODS

CRITERIA = "milepost.v1.Criteria"
WARNING = "milepost.v1.Warning"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
JOURNEY = f"{ACCOUNT}/journeys/j"
MILESTONE = f"{JOURNEY}/milestones/all"
BY_CRITERIA = "MILESTONE_KIND_CRITERIA"

MISTAKEN = {
    "all_of": {
        "criteria": [
            {"user_attribute": {"key": "age", "test": {"greater_than": {"number_value": 5}}}},
            {
                "event": {
                    "name": "buy",
                    "where": {"attribute": {"key": "at", "test": {"within_last": "86400s"}}},
                }
            },
            {"event": {"name": "byu"}},
        ]
    }
}
EXPECTED = [
    (
        "KIND_NEVER_SEEN",
        "all_of.criteria[0].user_attribute.test.greater_than",
        "finds no numbers so far: the values of user attribute 'age' in the inputs of the journey are "
        "strings; send numbers, or test strings",
    ),
    (
        "KIND_NEVER_SEEN",
        "all_of.criteria[1].event.where.attribute.test.within_last",
        "finds no times so far: the values of 'at' of event 'buy' in the inputs of the journey are strings; "
        "send times, or test strings",
    ),
    (
        "NEVER_SEEN",
        "all_of.criteria[2].event.name",
        "no event named 'byu' has been seen so far; did you mean 'buy'?",
    ),
]

DRAFT = {"journey": JOURNEY, "kind": BY_CRITERIA, "criteria": MISTAKEN}
BELOW = {"id": "below", "criteria": MISTAKEN}
CASES: dict[str, list[tuple[dict[str, Any], str]]] = {
    "JourneyService.CreateMilestone": [
        ({"parent": JOURNEY, "milestone": {"kind": BY_CRITERIA, "criteria": MISTAKEN}}, "milestone.criteria")
    ],
    "JourneyService.UpdateMilestone": [
        ({"milestone": {"name": MILESTONE, "criteria": MISTAKEN}}, "milestone.criteria")
    ],
    "JourneyService.ApplyJourney": [
        (
            {
                "parent": ACCOUNT,
                "document": {
                    "journey": "applied",
                    "milestones": [{"id": "m", "criteria": {"all_of": {}}, "children": [BELOW]}],
                },
                "validate_only": validate_only,
            },
            "document.milestones[0].children[0].criteria",
        )
        for validate_only in (True, False, False)
    ],
    "JourneyService.PreviewEdit": [
        (
            {
                "name": JOURNEY,
                "update_milestone": {"milestone": {"name": MILESTONE, "criteria": MISTAKEN}},
            },
            "update_milestone.milestone.criteria",
        ),
        (
            {
                "name": f"{ACCOUNT}/journeys/previewed",
                "apply_journey": {
                    "parent": ACCOUNT,
                    "document": {"journey": "previewed", "milestones": [BELOW]},
                },
            },
            "apply_journey.document.milestones[0].criteria",
        ),
    ],
    "AudienceService.EstimateAudience": [({"draft": DRAFT}, "draft.criteria")],
    "AudienceService.ExplainAudience": [({"draft": DRAFT}, "draft.criteria")],
    "AudienceService.PreviewJourney": [
        (
            {"parent": ACCOUNT, "milestones": [{"id": "m", "kind": BY_CRITERIA, "criteria": MISTAKEN}]},
            "milestones[0].criteria",
        )
    ],
}
"""For each method requests, and the path of the criteria in them."""


def holds(message: Descriptor, wanted: str, passed: frozenset[str] = frozenset()) -> bool:
    """Whether a message has a message of that name in it, however deep."""
    if message.full_name == wanted:
        return True
    passed |= {message.full_name}
    inner = [field.message_type for field in message.fields if field.message_type is not None]
    return any(holds(each, wanted, passed) for each in inner if each.full_name not in passed)


def lists_warnings(method: MethodDescriptor) -> bool:
    field: FieldDescriptor | None = method.output_type.fields_by_name.get("warnings")
    kind = None if field is None or not field.is_repeated else field.message_type
    return kind is not None and kind.full_name == WARNING


TAKING_CRITERIA = [name for name, method in METHODS.items() if holds(method.input_type, CRITERIA)]


def test_the_walk_sees_nested_messages() -> None:
    assert holds(METHODS["JourneyService.ApplyJourney"].input_type, CRITERIA)
    assert not holds(METHODS["JourneyService.GetMilestone"].input_type, CRITERIA)
    assert holds(METHODS["JourneyService.GetMilestone"].output_type, CRITERIA)


def test_every_method_that_takes_criteria_has_a_case() -> None:
    assert sorted(TAKING_CRITERIA) == sorted(CASES)


@pytest.mark.parametrize("name", TAKING_CRITERIA)
def test_its_answer_has_warnings(name: str) -> None:
    assert lists_warnings(METHODS[name])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Ages and times came as strings."""
    with (
        serving(tmp_path_factory.mktemp("warnings") / "store", access_log="none") as running,
        Client(running.address, account=ACCOUNT.rpartition("/")[2]) as client,
    ):
        running.create_inputs()
        client.ingest_events([make_event("ann", "buy", NOON, {"at": NOON.isoformat()})], input=INPUT)
        client.upsert_users([make_user_update("ann", {"age": "21"}, time=NOON)], input=INPUT)
        call(running, "JourneyService.CreateJourney", {"parent": ACCOUNT, "journey_id": "j", "journey": {}})
        everyone = {"kind": BY_CRITERIA, "criteria": {"all_of": {}}}
        call(
            running,
            "JourneyService.CreateMilestone",
            {"parent": JOURNEY, "milestone_id": "all", "milestone": everyone},
        )
        yield running


def call(service: Serving, name: str, request: dict[str, Any]) -> Any:
    method = METHODS[name]
    kind = message_factory.GetMessageClass(method.input_type)
    unary = service.channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=kind.SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    return unary(json_format.ParseDict(request, kind()), timeout=CALL_TIMEOUT_S)


@pytest.mark.parametrize("name", CASES)
def test_mistakes_are_warned_about(service: Serving, name: str) -> None:
    for request, field in CASES[name]:
        warnings = call(service, name, request).warnings
        assert [(each.reason, each.field, each.description) for each in warnings] == [
            (reason, f"{field}.{path}", text) for reason, path, text in EXPECTED
        ]
