"""The catalog through a real server: figures, filters, pages, refusals, and the client's lists over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from milepost import Client
from milepost.data import make_event, make_user_update
from milepost.v1 import catalog_service_pb2 as pb
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_BOOL,
    VALUE_KIND_LIST,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
)
from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, EVENT_TYPE_CUSTOM
from milepost.v1.ingest_service_pb2 import AliasUserRequest, DeleteUsersRequest
from milepost.values import from_value, to_datetime
from tests.harness import ACCOUNT, INPUT, WORKSPACE, Serving, refusal_of, serving

SUPPORT = f"{ACCOUNT}/workspaces/support"
DESK = f"{SUPPORT}/inputs/desk"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A shop, and a support desk that sends prices as text; ada was erased, and bob's browser is bob."""
    with (
        serving(tmp_path_factory.mktemp("catalog") / "store", access_log="none") as running,
        Client(running.address, account="a") as client,
    ):
        running.create_inputs()
        client.ensure_input("support", "desk")
        client.ingest_events(
            [
                make_event("ada", "left", NOON - SECOND, {"why": "price"}),
                make_event("ada", "buy", NOON - SECOND, {"secret": True}),
                make_event("bob", "buy", NOON, {"price": 9.5, "tags": ["a"]}),
                make_event("browser", "buy", NOON + SECOND, {"price": 1.0, "when": NOON}),
                make_event("cleo", "buy", NOON + 2 * SECOND, {"price": 2.0}),
                make_event("cleo", "buy", NOON, {"paid": True}, type=EVENT_TYPE_COMMERCE),
                make_event("cleo", "call", NOON),
                make_event("bob", "buy", NOON, {"price": "9.50"}, input=DESK),
            ],
            input=INPUT,
        )
        client.upsert_users(
            [
                make_user_update("ada", {"plan": "gold"}, time=NOON - SECOND),
                make_user_update("bob", {"plan": "gold", "age": 41}, time=NOON),
                make_user_update("cleo", {"plan": ["gold", "silver"], "age": 41.0}, time=NOON + SECOND),
                make_user_update("dan", {"plan": "green", "age": "41"}, time=NOON, input=DESK),
                make_user_update("eve", {"plan": "green", "born": NOON}, time=NOON + 2 * SECOND),
                make_user_update("fay", {"plan": True, "born": NOON}, time=NOON + 3 * SECOND),
            ],
            input=INPUT,
        )
        client.ingest.DeleteUsers(DeleteUsersRequest(parent=ACCOUNT, user_ids=["ada"]))
        client.ingest.AliasUser(AliasUserRequest(parent=ACCOUNT, from_user_id="browser", to_user_id="bob"))
        yield running


@pytest.fixture(scope="module")
def client(service: Serving) -> Iterator[Client]:
    with Client(service.address, account="a") as opened:
        yield opened


def test_event_names(client: Client) -> None:
    found = [
        (
            e.name,
            e.event_type,
            e.input,
            e.events,
            e.users,
            to_datetime(e.first_time),
            to_datetime(e.last_time),
        )
        for e in client.list_event_names()
    ]
    assert found == [
        ("buy", EVENT_TYPE_CUSTOM, DESK, 1, 1, NOON, NOON),
        ("buy", EVENT_TYPE_CUSTOM, INPUT, 3, 2, NOON, NOON + 2 * SECOND),
        ("buy", EVENT_TYPE_COMMERCE, INPUT, 1, 1, NOON, NOON),
        ("call", EVENT_TYPE_CUSTOM, INPUT, 1, 1, NOON, NOON),
    ]


def test_event_names_of_an_input_and_with_a_prefix(client: Client) -> None:
    assert [(e.name, e.events) for e in client.list_event_names(input="support/desk")] == [("buy", 1)]
    assert [e.name for e in client.list_event_names(prefix="c")] == ["call"]
    assert list(client.list_event_names(prefix="left")) == []


def test_attributes_of_events_show_the_input_that_sends_text(client: Client) -> None:
    def kinds(input: str = "", prefix: str = "") -> dict[str, list[int]]:
        found = list(client.list_attributes(event_name="buy", input=input, prefix=prefix))
        assert {each.event_name for each in found} == {"buy"}
        return {each.key: list(each.kinds) for each in found}

    assert kinds() == {
        "paid": [VALUE_KIND_BOOL],
        "price": [VALUE_KIND_STRING, VALUE_KIND_NUMBER],
        "tags": [VALUE_KIND_LIST],
        "when": [VALUE_KIND_TIME],
    }
    assert kinds(input="support/desk") == {"price": [VALUE_KIND_STRING]}
    assert kinds(input=INPUT, prefix="pr") == {"price": [VALUE_KIND_NUMBER]}


def test_attributes_of_users_by_workspace(client: Client) -> None:
    found = [(a.key, a.workspace, list(a.kinds), a.users) for a in client.list_attributes()]
    assert found == [
        ("age", SUPPORT, [VALUE_KIND_STRING], 1),
        ("age", WORKSPACE, [VALUE_KIND_NUMBER], 2),
        ("born", WORKSPACE, [VALUE_KIND_TIME], 2),
        ("plan", SUPPORT, [VALUE_KIND_STRING], 1),
        ("plan", WORKSPACE, [VALUE_KIND_STRING, VALUE_KIND_BOOL, VALUE_KIND_LIST], 4),
    ]
    assert [a.key for a in client.list_attributes(workspace="support", prefix="p")] == ["plan"]


def test_when_attributes_were_sent(client: Client) -> None:
    def times(**which: str) -> dict[tuple[str, str], tuple[timedelta, timedelta]]:
        return {
            (a.key, a.workspace): (to_datetime(a.first_time) - NOON, to_datetime(a.last_time) - NOON)
            for a in client.list_attributes(**which)
        }

    none = timedelta(0)
    assert times() == {
        ("age", SUPPORT): (none, none),
        ("age", WORKSPACE): (none, SECOND),
        ("born", WORKSPACE): (2 * SECOND, 3 * SECOND),
        ("plan", SUPPORT): (none, none),
        ("plan", WORKSPACE): (none, 3 * SECOND),
    }
    assert times(event_name="buy") == {
        ("paid", ""): (none, none),
        ("price", ""): (none, 2 * SECOND),
        ("tags", ""): (none, none),
        ("when", ""): (SECOND, SECOND),
    }
    assert times(event_name="buy", input="support/desk") == {("price", ""): (none, none)}


def test_values_most_frequent_first(client: Client) -> None:
    def values(key: str, prefix: str = "") -> list[tuple[object, int]]:
        found = client.list_attribute_values("w", key, prefix=prefix)
        return [(from_value(count.value), count.users) for count in found]

    assert values("plan") == [("gold", 2), ("green", 1), ("silver", 1), (True, 1)]
    assert values("plan", "g") == [("gold", 2), ("green", 1)]
    assert values("age") == [(41.0, 2)]
    assert values("born") == [(NOON, 2)]
    assert values("nothing") == []


def test_values_of_events_are_counted_by_events(client: Client) -> None:
    def values(key: str, input: str = "", prefix: str = "") -> list[tuple[object, int]]:
        found = list(
            client.list_attribute_values("", key, event_name="buy", input=input, prefix=prefix, page_size=1)
        )
        assert {count.users for count in found} <= {0}
        return [(from_value(count.value), count.events) for count in found]

    assert values("price") == [("9.50", 1), (1.0, 1), (2.0, 1), (9.5, 1)]
    assert values("price", input="support/desk") == [("9.50", 1)]
    assert values("price", prefix="9") == [("9.50", 1)]
    assert values("tags") == [("a", 1)]
    assert values("when") == [(NOON, 1)]
    assert values("secret") == []


def test_pages_of_any_size_cover_the_list(client: Client) -> None:
    lists: list[tuple[Callable[[Any], Any], Any, str]] = [
        (client.catalog.ListEventNames, pb.ListEventNamesRequest(parent=ACCOUNT), "event_names"),
        (client.catalog.ListAttributes, pb.ListAttributesRequest(parent=ACCOUNT), "attributes"),
        (
            client.catalog.ListAttributes,
            pb.ListAttributesRequest(parent=ACCOUNT, event_name="buy"),
            "attributes",
        ),
        (
            client.catalog.ListAttributeValues,
            pb.ListAttributeValuesRequest(parent=WORKSPACE, key="plan"),
            "values",
        ),
        (
            client.catalog.ListAttributeValues,
            pb.ListAttributeValuesRequest(parent=ACCOUNT, event_name="buy", key="price"),
            "values",
        ),
    ]
    for method, request, field in lists:
        whole = list(getattr(method(request), field))
        assert len(whole) == 4 + (field == "attributes" and not request.event_name)
        for size in (1, 2, 3, len(whole)):
            request.page_size = size
            pages = [list(getattr(page, field)) for page in client.pages(method, request)]
            assert [each for page in pages for each in page] == whole
            assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
            assert pages[-1]


@pytest.mark.parametrize(
    ("method", "request_", "code", "field"),
    [
        ("ListEventNames", pb.ListEventNamesRequest(), INVALID, "parent"),
        ("ListEventNames", pb.ListEventNamesRequest(parent="accounts/none"), NOT_FOUND, ""),
        ("ListEventNames", pb.ListEventNamesRequest(parent=ACCOUNT, page_size=-1), INVALID, "page_size"),
        ("ListEventNames", pb.ListEventNamesRequest(parent=ACCOUNT, page_token="x"), INVALID, "page_token"),
        ("ListEventNames", pb.ListEventNamesRequest(parent=ACCOUNT, input="desk"), INVALID, "input"),
        (
            "ListEventNames",
            pb.ListEventNamesRequest(parent=ACCOUNT, input="accounts/b/workspaces/w/inputs/i"),
            INVALID,
            "input",
        ),
        ("ListEventNames", pb.ListEventNamesRequest(parent=ACCOUNT, input=INPUT + "x"), NOT_FOUND, ""),
        ("ListAttributes", pb.ListAttributesRequest(parent=WORKSPACE), INVALID, "parent"),
        ("ListAttributes", pb.ListAttributesRequest(parent=ACCOUNT, input=INPUT), INVALID, "input"),
        (
            "ListAttributes",
            pb.ListAttributesRequest(parent=ACCOUNT, event_name="buy", workspace=WORKSPACE),
            INVALID,
            "workspace",
        ),
        ("ListAttributes", pb.ListAttributesRequest(parent=ACCOUNT, workspace=SUPPORT + "x"), NOT_FOUND, ""),
        ("ListAttributeValues", pb.ListAttributeValuesRequest(parent=WORKSPACE), INVALID, "key"),
        ("ListAttributeValues", pb.ListAttributeValuesRequest(parent=ACCOUNT, key="plan"), INVALID, "parent"),
        (
            "ListAttributeValues",
            pb.ListAttributeValuesRequest(parent=WORKSPACE + "x", key="plan"),
            NOT_FOUND,
            "",
        ),
        (
            "ListAttributeValues",
            pb.ListAttributeValuesRequest(parent=WORKSPACE, key="plan", input=INPUT),
            INVALID,
            "input",
        ),
        (
            "ListAttributeValues",
            pb.ListAttributeValuesRequest(parent=WORKSPACE, key="price", event_name="buy"),
            INVALID,
            "parent",
        ),
        (
            "ListAttributeValues",
            pb.ListAttributeValuesRequest(parent=ACCOUNT, event_name="buy"),
            INVALID,
            "key",
        ),
        (
            "ListAttributeValues",
            pb.ListAttributeValuesRequest(parent=ACCOUNT, key="price", event_name="buy", input=INPUT + "x"),
            NOT_FOUND,
            "",
        ),
    ],
)
def test_what_is_refused(
    service: Serving, method: str, request_: Any, code: grpc.StatusCode, field: str
) -> None:
    refusal = refusal_of(getattr(service.catalog, method), request_)
    assert refusal.code == code
    assert list(refusal.violations) == ([field] if field else [])


def test_page_token_is_bound_to_its_list(service: Serving) -> None:
    request = pb.ListAttributeValuesRequest(parent=WORKSPACE, key="plan", page_size=1)
    token = service.catalog.ListAttributeValues(request).next_page_token
    for key, prefix in (("age", ""), ("plan", "g")):
        other = pb.ListAttributeValuesRequest(
            parent=WORKSPACE, key=key, prefix=prefix, page_size=1, page_token=token
        )
        assert refusal_of(service.catalog.ListAttributeValues, other).reason == "INVALID_PAGE_TOKEN"
    of_event = pb.ListAttributeValuesRequest(parent=ACCOUNT, event_name="buy", key="price", page_size=1)
    of_event.page_token = service.catalog.ListAttributeValues(of_event).next_page_token
    assert [each.events for each in service.catalog.ListAttributeValues(of_event).values] == [1]
    of_event.input = INPUT
    assert refusal_of(service.catalog.ListAttributeValues, of_event).reason == "INVALID_PAGE_TOKEN"


def test_account_without_data(tmp_path: Path) -> None:
    with serving(tmp_path / "store", access_log="none") as running:
        running.create_inputs()
        names = running.catalog.ListEventNames(pb.ListEventNamesRequest(parent=ACCOUNT))
        assert names == pb.ListEventNamesResponse()
