"""Every method has a rule, and a method without one is for operators only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

from engine.resources.api_keys import digest_of
from engine.resources.records import Scope
from service.auth.caller import ANYONE, IMPLIED, Caller
from service.auth.errors import ScopeMissing
from service.auth.gate import Gate
from service.auth.methods import OPERATORS_ONLY, RULES, Rule, rule_of
from service.auth.snapshot import KeySnapshot, KnownSecret
from tests.clients.fake import methods
from tests.walks import each_of

METHODS = {f"/{each.containing_service.full_name}/{each.name}": each for each in methods()}
READS = ("Get", "List", "Estimate", "Count", "Compare", "Check", "BatchCheck", "Export", "Watch", "Explain")
WRITES = (
    "Create",
    "Update",
    "Delete",
    "Apply",
    "Clone",
    "Move",
    "Activate",
    "Deactivate",
    "Resume",
    "Rotate",
)
WITHOUT_A_NAME = {"CreateAccount", "ListAccounts"}
"""Methods outside AdminService whose requests name no account. They are for operators."""


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    *ways, last = path.split(".")
    for way in ways:
        inside = message.fields_by_name[way].message_type
        assert inside is not None
        message = inside
    return message.fields_by_name[last]


def top_level_names(method: MethodDescriptor) -> Iterator[str]:
    """The fields of a request that name what the call is about, by their names."""
    for field in method.input_type.fields:
        inside = field.message_type
        if field.name in ("name", "parent"):
            yield field.name
        elif inside is not None and method.name.startswith("Update") and "name" in inside.fields_by_name:
            yield f"{field.name}.name"
        elif inside is not None and method.client_streaming and "parent" in inside.fields_by_name:
            yield f"{field.name}.parent"


ADMIN_METADATA = (("authorization", "Bearer secret"),)


def gate_of_an_admin() -> Gate:
    gate = Gate(lambda: 0, calls_per_second_max=10, in_flight_max=1, operator_slots_percent_max=50)
    secret = KnownSecret(
        digest=digest_of("secret"), key="accounts/a/apiKeys/k", account="accounts/a", scopes=(Scope.ADMIN,)
    )
    gate.publish(KeySnapshot((secret,), required=True))
    return gate


def test_every_method_of_the_contract_has_a_rule_and_no_other_has() -> None:
    of_the_contract = {path for path in RULES if path.startswith("/milepost.v1.")}
    assert of_the_contract == METHODS.keys()
    assert {path.split("/")[1] for path in RULES.keys() - of_the_contract} == {
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@each_of("path", sorted(METHODS))
def test_the_rule_names_texts_of_the_request_that_say_whose_it_is(path: str) -> None:
    method, rule = METHODS[path], rule_of(path)
    for name in rule.names:
        assert field_at(method.input_type, name).type == FieldDescriptor.TYPE_STRING
    # What operators name, such as a backup, is in no account.
    is_operators = method.containing_service.name == "AdminService"
    assert is_operators or set(top_level_names(method)) <= set(rule.names)
    without = is_operators or method.name in WITHOUT_A_NAME
    assert bool(rule.names) is not without
    if without:
        assert rule == OPERATORS_ONLY


@each_of("path", sorted(METHODS))
def test_what_writes_needs_more_than_to_read(path: str) -> None:
    method, rule = METHODS[path].name, rule_of(path)
    if method.startswith(WRITES) or "IngestService" in path:
        assert rule.scope not in (None, Scope.READ)
    elif method.startswith(READS):
        assert rule.scope in (Scope.READ, Scope.ADMIN, Scope.OPERATOR)
    assert "ApiKey" not in method or rule.scope is Scope.ADMIN


def test_a_method_without_a_rule_is_for_operators_only() -> None:
    assert rule_of("/milepost.v1.AccountService/Forgotten") == Rule(Scope.OPERATOR)
    with pytest.raises(ScopeMissing):
        gate_of_an_admin().admit("/milepost.v1.AccountService/Forgotten", ADMIN_METADATA)


def test_scopes_imply_what_their_comments_say() -> None:
    assert IMPLIED[Scope.MANAGE] == {Scope.READ, Scope.MANAGE}
    assert IMPLIED[Scope.ADMIN] == set(Scope) - {Scope.OPERATOR}
    assert IMPLIED[Scope.OPERATOR] == set(Scope)
    assert ANYONE.is_operator
    assert not Caller(key="k", account="accounts/a", scopes=IMPLIED[Scope.ADMIN]).is_operator


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("accounts/a", True),
        ("accounts/a/journeys/j", True),
        ("accounts/ab", False),
        ("accounts/ab/journeys/j", False),
        ("accounts/b", False),
        ("accounts/", False),
        ("apiKeys/k", False),
    ],
)
def test_a_caller_of_an_account_sees_only_what_is_in_it(name: str, seen: bool) -> None:
    assert Caller(key="k", account="accounts/a", scopes=frozenset()).sees(name) is seen
    assert ANYONE.sees(name)
