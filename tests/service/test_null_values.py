"""A null attribute, a `Value` without a kind, through every way in: no attribute of an event, an unset of a
user's, and never a reason to refuse what comes with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from milepost.data import make_event, make_user_update
from milepost.v1.catalog_service_pb2 import GetUserRequest, ListAttributesRequest
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import (
    ImportEventsRequest,
    ImportHeader,
    IngestEventsRequest,
    StreamEventsRequest,
    UpsertUsersRequest,
)
from milepost.values import to_value
from service.convert.event_columns import BY_COLUMN_EVENTS_MIN
from tests.arrow_requests import arrow_bytes
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Serving, serving

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE = datetime(2026, 1, 1, 13, tzinfo=UTC)

Send = Callable[[Serving, str, Sequence[Event]], tuple[int, int]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("null") / "store", log_level="error") as running:
        running.create_inputs()
        yield running


def in_a_batch(service: Serving, name: str, events: Sequence[Event]) -> tuple[int, int]:
    request = IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    answer = service.ingest.IngestEvents(request, timeout=CALL_TIMEOUT_S)
    return answer.accepted, len(answer.rejections)


def in_a_stream(service: Serving, name: str, events: Sequence[Event]) -> tuple[int, int]:
    batch = IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=events)
    requests = iter([StreamEventsRequest(sequence=1, batch=batch)])
    [answer] = service.ingest.StreamEvents(requests, timeout=CALL_TIMEOUT_S)
    return answer.result.accepted, len(answer.result.rejections)


def in_an_import(service: Serving, name: str, events: Sequence[Event]) -> tuple[int, int]:
    price = [event.attributes["price"].number_value for event in events]
    table = pa.RecordBatch.from_pydict(
        {
            "user_id": [event.user_id for event in events],
            "time": pa.array([NOON] * len(events), pa.timestamp("us", "UTC")),
            "coupon": pa.array([None] * len(events), pa.string()),
            "price": price,
        }
    )
    header = ImportHeader(parent=ACCOUNT, input=INPUT, default_name=name)
    requests = [ImportEventsRequest(header=header), ImportEventsRequest(arrow=arrow_bytes(table))]
    answer = service.ingest.ImportEvents(iter(requests), timeout=CALL_TIMEOUT_S)
    return answer.accepted, answer.rejected


@pytest.mark.parametrize("count", [1, BY_COLUMN_EVENTS_MIN])
@pytest.mark.parametrize("send", [in_a_batch, in_a_stream, in_an_import])
def test_a_null_is_no_attribute_of_an_event(service: Serving, send: Send, count: int) -> None:
    name = f"{send.__name__} {count}"
    events = [make_event(f"u{number}", name, NOON, {"coupon": None, "price": 9.5}) for number in range(count)]
    assert events[0].attributes["coupon"].WhichOneof("kind") is None
    assert send(service, name, events) == (count, 0)
    listed = service.catalog.ListAttributes(ListAttributesRequest(parent=ACCOUNT, event_name=name))
    assert [attribute.key for attribute in listed.attributes] == ["price"]


def attributes(service: Serving, user_id: str) -> dict[str, object]:
    user = service.catalog.GetUser(GetUserRequest(parent=ACCOUNT, user_id=user_id)).user
    [found] = user.attributes
    return {key: value.string_value for key, value in found.attributes.items()}


def upsert(service: Serving, *updates: UserUpdate) -> None:
    answer = service.ingest.UpsertUsers(UpsertUsersRequest(parent=ACCOUNT, input=INPUT, users=updates))
    assert (answer.accepted, len(answer.rejections)) == (len(updates), 0)


def test_a_null_unsets_an_attribute_of_a_user_with_the_time_of_the_update(service: Serving) -> None:
    upsert(service, make_user_update("ann", {"plan": "gold", "city": "Ulm"}, time=NOON))
    upsert(service, make_user_update("ann", {"plan": None, "name": "Ann"}, time=ONE))
    assert attributes(service, "ann") == {"city": "Ulm", "name": "Ann"}
    # An unset is a write: an older value that arrives later does not come back.
    upsert(service, make_user_update("ann", {"plan": "silver", "name": "Anna"}, time=NOON))
    assert attributes(service, "ann") == {"city": "Ulm", "name": "Ann"}


def test_a_null_and_an_unset_say_the_same(service: Serving) -> None:
    upsert(service, make_user_update("bob", {"plan": "gold", "city": "Ulm"}, time=NOON))
    upsert(service, make_user_update("bob", {"plan": None}, time=ONE, unset=["plan"]))
    assert attributes(service, "bob") == {"city": "Ulm"}


def test_none_is_null_for_attributes_and_no_operand() -> None:
    with pytest.raises(TypeError, match="None is no value"):
        to_value(None)  # type: ignore[arg-type]
