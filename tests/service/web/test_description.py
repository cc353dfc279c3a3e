"""The description of the contract in OpenAPI has its limits, and describes what is sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from jsonschema import Draft202012Validator

from tests.spec.scenario import METHODS, STEPS, scenario
from tools.contract import Rules
from tools.generate_openapi import TARGET, constraints

DESCRIPTION = json.loads(TARGET.read_text(encoding="utf-8"))
SCHEMAS = DESCRIPTION["components"]["schemas"]


def validator(message: str) -> Draft202012Validator:
    """Checks the JSON form of a message."""
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{message}", "components": {"schemas": SCHEMAS}}
    )


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


def test_every_request_that_is_answered_is_one_of_the_description(tmp_path: Path) -> None:
    found: dict[str, list[str]] = {}

    def check(method: MethodDescriptor, call: Callable[..., Any], requests: list[Any]) -> None:
        name = f"{method.containing_service.name}.{method.name}"
        checks = validator(method.input_type.full_name)
        for request in requests:
            faults = checks.iter_errors(json_format.MessageToDict(request))
            found.setdefault(name, []).extend(f"{fault.json_path}: {fault.message}" for fault in faults)

    with scenario(tmp_path, check) as run:
        for step in STEPS:
            assert run.perform(step) == []
    # One event of the scenario is rejected, and the others are taken.
    assert found.pop("IngestService.IngestEvents") == ["$.events[2]: 'userId' is a required property"]
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert found.keys() == METHODS.keys() - {"IngestService.IngestEvents"}


@pytest.mark.parametrize(
    ("message", "request_", "path"),
    [
        ("CheckMembershipRequest", {"audience": "accounts/a/audiences/x"}, "$"),
        ("CheckMembershipRequest", {"audience": "x", "userId": "ann"}, "$.audience"),
        ("CreateAccountRequest", {"accountId": "Acme"}, "$.accountId"),
        ("ListAccountsRequest", {"pageSize": -1}, "$.pageSize"),
        ("IngestEventsRequest", {"parent": "accounts/a", "events": [{"name": "buy"}]}, "$.events[0]"),
        (
            "UpsertUsersRequest",
            {"parent": "accounts/a", "users": [{"userId": "ann", "attributes": {"": {}}}]},
            "$.users[0].attributes",
        ),
        ("CompareAudiencesRequest", {"audiences": ["accounts/a/audiences/x"]}, "$.audiences"),
    ],
)
def test_a_request_beyond_a_limit_is_none(message: str, request_: dict[str, Any], path: str) -> None:
    faults = list(validator(f"milepost.v1.{message}").iter_errors(request_))
    assert path in [fault.json_path for fault in faults]


@pytest.mark.parametrize(
    ("rules", "schema"),
    [
        ({}, {}),
        ({"required": True, "string.max_bytes": 256}, {"maxLength": 256, "minLength": 1}),
        ({"string.pattern": "^a$", "ignore": "IGNORE_IF_ZERO_VALUE"}, {"pattern": "^(?:a)?$"}),
        ({"required": True, "repeated.max_items": 5}, {"maxItems": 5, "minItems": 1}),
        ({"int32.gte": 0, "int64.lte": 9, "duration.gt": 0}, {"minimum": 0}),
        ({"bool.const": True}, {"const": True}),
    ],
)
def test_rules_as_json_schema(rules: Rules, schema: dict[str, Any]) -> None:
    assert constraints(rules) == schema
