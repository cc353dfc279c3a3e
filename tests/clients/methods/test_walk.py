"""The whole contract is within reach: every method of it has one of the client, and a test calls each of
these against a real service.

The client's method has the contract's name in snake case: `get_account` for GetAccount. `SHORT_NAMES` has the
exceptions. The tests in this folder have a client of a real service.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor

from milepost import AsyncClient, Client
from milepost._naming import Naming
from milepost.client.accounts import AccountMethods
from milepost.client.admin import AdminMethods
from milepost.client.audiences import AudienceMethods
from milepost.client.base import ClientBase
from milepost.client.catalog import CatalogMethods
from milepost.client.connections import ConnectionMethods
from milepost.client.ingest import IngestMethods
from milepost.client.journeys import JourneyMethods
from tests.clients.fake import methods
from tests.walks import each_of

SHORT_NAMES = {
    "EstimateAudience": "estimate",
    "CountAudience": "count",
    "CheckMembership": "check",
    "BatchCheckMembership": "check_many",
    "WatchMembership": "watch",
    # Each kind of edit has a method of its own.
    "PreviewEdit": "preview_apply_journey",
}
"""The questions that services ask all the time."""
ROOMS = {
    "AccountService": AccountMethods,
    "IngestService": IngestMethods,
    "CatalogService": CatalogMethods,
    "JourneyService": JourneyMethods,
    "AudienceService": AudienceMethods,
    "ConnectionService": ConnectionMethods,
    "AdminService": AdminMethods,
}
"""Where the client has the methods of each service."""

WITHOUT_CALLS = {
    *(name for name, _ in inspect.getmembers(Naming, inspect.isfunction)),
    "event_stream",  # calls when something is sent
    "local",  # calls when it is entered
    "watch",  # calls when it is read
    "watch_together",  # calls when it is read
    "with_timeout",
}
"""Methods that make no call."""

METHODS = list(methods())
PUBLIC = sorted(
    {
        name
        for room in (ClientBase, *ROOMS.values())
        for name, _ in inspect.getmembers(room, inspect.isfunction)
        if not name.startswith("_")
    }
)


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def client_s_name(method: MethodDescriptor) -> str:
    return SHORT_NAMES.get(method.name) or re.sub(r"(?<!^)([A-Z])", r"_\1", method.name).lower()


def called(source: str) -> Iterator[str]:
    """What tests call on a variable, such as `client`."""
    for test in ast.walk(ast.parse(source)):
        if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
            continue
        for call in ast.walk(test):
            match call:
                case ast.Call(func=ast.Attribute(value=ast.Name(), attr=name)):
                    yield name


CALLED = {
    name
    for file in Path(__file__).parent.glob("test_*.py")
    for name in called(file.read_text(encoding="utf-8"))
}


@each_of("method", METHODS, path_of)
def test_every_method_of_the_contract_is_one_of_the_client(method: MethodDescriptor) -> None:
    assert hasattr(ROOMS[method.containing_service.name], client_s_name(method))


@each_of("name", PUBLIC)
def test_every_method_of_the_client_has_a_type_a_description_and_a_test(name: str) -> None:
    method = getattr(Client, name)
    assert inspect.getdoc(method), "no description"
    signature = inspect.signature(method)
    untyped = [each for each in signature.parameters.values() if each.annotation is each.empty]
    assert [each.name for each in untyped] == ["self"]
    assert signature.return_annotation is not signature.empty
    assert name in CALLED, f"no test in {Path(__file__).parent.name} calls it"


@each_of("name", PUBLIC)
def test_the_asyncio_client_has_the_same_method(name: str) -> None:
    """What calls the service is awaited, or read by `async for`; the rest is the same."""
    ours, theirs = getattr(Client, name), getattr(AsyncClient, name)
    assert list(inspect.signature(ours).parameters.values()) == [
        each.replace(annotation=str(each.annotation).replace("Async", ""))
        if isinstance(each.annotation, str)
        else each
        for each in inspect.signature(theirs).parameters.values()
    ]
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    makes_calls = name not in WITHOUT_CALLS
    assert (inspect.iscoroutinefunction(theirs) or inspect.isasyncgenfunction(theirs)) is makes_calls


def test_the_walk_sees_what_is_missing() -> None:
    assert list(called("def test_one(client):\n    client.get_user('ann')\n")) == ["get_user"]
    assert list(called("def helper(client):\n    client.get_user('ann')\n")) == []
    assert list(called("def test_one(client):\n    client.catalog.GetUser(request)\n")) == []
    assert len(METHODS) > 70
    assert "ensure_output" in PUBLIC
    assert [client_s_name(method) for method in METHODS][:3] == [
        "create_account",
        "get_account",
        "list_accounts",
    ]
