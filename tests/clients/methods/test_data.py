"""The methods that write data and read the catalog, against a real service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from milepost import Client, errors, from_value, make_event, make_user_update
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import ImportUsersHeader
from milepost.values import to_datetime

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WEB = "shop/web"


def bought(*user_ids: str) -> list[Event]:
    return [make_event(user, "buy", NOON, {"price": 9.5}, event_id=f"{user}-1") for user in user_ids]


@pytest.fixture
def shop(client: Client) -> Client:
    client.ensure_input("shop", "web")
    return client


# --- writing ---


def test_events_and_users_go_through_an_input_given_by_its_ids(shop: Client) -> None:
    sent = shop.ingest_events(bought("ann", "bob", "ann"), input=WEB)
    assert (sent.accepted, sent.duplicates, sent.rejected) == (2, 1, 0)
    updates = [make_user_update("ann", {"plan": "gold"}, time=NOON + timedelta(hours=1))]
    assert shop.upsert_users(updates, input=WEB).accepted == 1
    ann = shop.get_user("ann")
    assert [
        (each.input, to_datetime(each.first_seen), to_datetime(each.last_seen)) for each in ann.inputs
    ] == [(shop.input_name(WEB), NOON, NOON + timedelta(hours=1))]
    [attributes] = ann.attributes
    assert (attributes.workspace, from_value(attributes.attributes["plan"])) == (
        shop.workspace_name("shop"),
        "gold",
    )


def test_record_batches_are_imported(shop: Client) -> None:
    events = pa.RecordBatch.from_pydict(
        {"user_id": ["ann", "bob"], "name": ["buy", "look"], "time": pa.array([NOON, NOON])}
    )
    imported = shop.import_events([events], input=WEB)
    assert (imported.accepted, imported.rejected) == (2, 0)
    users = pa.RecordBatch.from_pydict({"user_id": ["ann"], "mail": ["ann@example.com"]})
    columns = ImportUsersHeader(identity_columns={"mail": "email"})
    assert shop.import_users([users], input=WEB, columns=columns).accepted == 1
    assert dict(shop.get_user("ann").identities) == {"email": "ann@example.com"}


def test_a_stream_acknowledges_each_batch_and_a_repeat_applies_it_once(shop: Client) -> None:
    batches: Sequence[Sequence[Event]] = [
        [make_event("ann", "buy", NOON), make_event("bob", "buy", NOON)],
        [make_event("eve", "buy", NOON), make_event("", "buy", NOON)],
    ]

    def sent(first: int) -> list[tuple[int, int, list[int]]]:
        answers = shop.stream_events(batches[first:], input=WEB, request_id="r", first_sequence=first)
        return [
            (each.sequence, each.result.accepted, [row.index for row in each.result.rejections])
            for each in answers
        ]

    assert sent(0) == [(0, 2, []), (1, 1, [1])]
    assert sent(1) == [(1, 1, [1])]
    assert [(each.name, each.events) for each in shop.list_event_names()] == [("buy", 3)]
    # A batch of which every event is rejected is acknowledged too, and others follow.
    [refused, accepted] = shop.stream_events(
        [[make_event("", "buy", NOON)], [make_event("fay", "buy", NOON)]], input=WEB
    )
    assert [(row.index, row.field) for row in refused.result.rejections] == [(0, "events[0].user_id")]
    assert (refused.sequence, accepted.sequence, accepted.result.accepted) == (0, 1, 1)


def test_events_are_streamed_as_they_come(shop: Client) -> None:
    with shop.event_stream(input=WEB, batch_rows=2, unacknowledged_max=2) as stream:
        for user in ("ann", "bob", "", "dan"):
            stream.send(bought(user))
        assert stream.flush().accepted == 3
        stream.send(bought("ann", "eve"))
    assert (stream.sent.accepted, stream.sent.duplicates, stream.sent.rejected) == (4, 1, 1)
    assert [(each.index, each.field) for each in stream.sent.rejections] == [(2, "events[0].user_id")]
    assert stream.unacknowledged == 0
    assert shop.check_many(["eve"], [], at_least=stream.sent.revision) == {"eve": set()}


def test_an_alias_merges_two_users(shop: Client) -> None:
    shop.ingest_events(bought("ann", "browser"), input=WEB)
    revision = shop.alias_user("browser", "ann")
    assert revision
    [names] = shop.list_event_names()
    assert (names.events, names.users) == (2, 1)
    with pytest.raises(errors.FailedPrecondition):
        shop.alias_user("ann", "browser")


def test_erased_users_are_unknown(shop: Client) -> None:
    shop.ingest_events(bought("ann", "bob"), input=WEB)
    assert shop.delete_users(["ann", "nobody"]).deleted == 1
    with pytest.raises(errors.NotFound):
        shop.get_user("ann")
    assert shop.get_user("bob").user_id == "bob"


# --- the catalog ---


def test_the_catalog_lists_names_attributes_and_values(shop: Client) -> None:
    shop.ingest_events(bought("ann", "bob"), input=WEB)
    plans = [make_user_update(user, {"plan": plan}) for user, plan in (("ann", "gold"), ("bob", "gold"))]
    shop.upsert_users(plans, input=WEB)
    assert [(each.name, each.events, each.users) for each in shop.list_event_names(input=WEB)] == [
        ("buy", 2, 2)
    ]
    assert [(each.key, each.users) for each in shop.list_attributes(workspace="shop")] == [("plan", 2)]
    assert [each.key for each in shop.list_attributes(event_name="buy", input=WEB)] == ["price"]
    values = shop.list_attribute_values("shop", "plan")
    assert [(from_value(each.value), each.users) for each in values] == [("gold", 2)]
    prices = shop.list_attribute_values("", "price", event_name="buy", input=WEB)
    assert [(from_value(each.value), each.events) for each in prices] == [(9.5, 2)]
