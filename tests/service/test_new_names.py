"""However data comes in, it brings a limited number of new names; rows that go over are rejected by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pyarrow as pa
import pytest

from milepost.v1 import ingest_service_pb2 as pb
from tests.arrow_requests import arrow_bytes, header, requests
from tests.harness import ACCOUNT, INPUT, Serving, read_refusal, serving

NEW_NAMES_MAX = 4
TIME_S = 1_790_000_000


class Outcome(NamedTuple):
    """Rows taken, and the index, reason and field of each rejection."""

    accepted: int
    rejected: list[tuple[int, str, str]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", batch_new_names_max=NEW_NAMES_MAX) as running:
        running.create_inputs()
        yield running


def outcome(answer: Any) -> Outcome:
    return Outcome(answer.accepted, [(each.index, each.reason, each.field) for each in answer.rejections])


def events(names: list[str], copies: int = 1) -> pb.IngestEventsRequest:
    """An event for each attribute name, each several times."""
    request = pb.IngestEventsRequest(parent=ACCOUNT, input=INPUT)
    for name in names:
        for _ in range(copies):
            event = request.events.add(user_id="ada", name="buy")
            event.time.FromSeconds(TIME_S)
            event.attributes[name].number_value = 1
    return request


def ingest(service: Serving, names: list[str]) -> Outcome:
    return outcome(service.ingest.IngestEvents(events(names)))


def ingest_many(service: Serving, names: list[str]) -> Outcome:
    """Enough events to be read by column; rows are numbered as if there were one for each name."""
    answer = outcome(service.ingest.IngestEvents(events(names, copies=100)))
    rejected = [
        (index // 100, reason, field.replace(f"[{index}]", f"[{index // 100}]"))
        for index, reason, field in answer.rejected
        if index % 100 == 0
    ]
    return Outcome(answer.accepted // 100, rejected)


def stream(service: Serving, names: list[str]) -> Outcome:
    [answer] = service.ingest.StreamEvents(iter([pb.StreamEventsRequest(batch=events(names))]))
    return outcome(answer.result)


def upsert(service: Serving, names: list[str]) -> Outcome:
    request = pb.UpsertUsersRequest(parent=ACCOUNT, input=INPUT)
    for name in names:
        request.users.add(user_id="ada").attributes[name].number_value = 1
    return outcome(service.ingest.UpsertUsers(request))


def import_events(service: Serving, names: list[str]) -> Outcome:
    batch = pa.record_batch(
        {
            "user_id": ["ada"] * len(names),
            "name": ["buy"] * len(names),
            "time": [TIME_S * 1_000_000] * len(names),
            **{name: [1.0 if each == name else None for each in names] for name in names},
        }
    )
    return outcome(service.ingest.ImportEvents(requests(header(), arrow_bytes(batch))))


def import_users(service: Serving, names: list[str]) -> Outcome:
    batch = pa.record_batch(
        {
            "user_id": ["ada"] * len(names),
            **{name: [1.0 if each == name else None for each in names] for name in names},
        }
    )
    first = pb.ImportUsersRequest(header=pb.ImportUsersHeader(parent=ACCOUNT, input=INPUT))
    rest = pb.ImportUsersRequest(arrow=arrow_bytes(batch))
    return outcome(service.ingest.ImportUsers(iter([first, rest])))


WAYS = [ingest, ingest_many, stream, upsert, import_events, import_users]


@pytest.mark.parametrize("send", WAYS)
def test_rows_beyond_the_limit_are_rejected_by_name(
    service: Serving, send: Callable[[Serving, list[str]], Outcome]
) -> None:
    names = [f"n{number}" for number in range(6)]
    # Events bring the name of the event too.
    room = NEW_NAMES_MAX - (send not in (upsert, import_users))
    first = send(service, names)
    assert first.accepted == room
    assert [(index, reason) for index, reason, _ in first.rejected] == [
        (index, "TOO_MANY_NAMES") for index in range(room, 6)
    ]
    assert [field.partition(".")[2] for _, _, field in first.rejected] == [
        f"attributes[{name!r}]" for name in names[room:]
    ]
    # What was rejected is taken when it is sent again: the names of the others are known now.
    assert send(service, names[room:]) == Outcome(6 - room, [])
    assert send(service, names) == Outcome(6, [])


def test_a_batch_of_new_names_alone_is_refused_with_the_limit(service: Serving) -> None:
    request = events(["a"])
    for number in range(NEW_NAMES_MAX):
        request.events[0].attributes[f"b{number}"].number_value = 1
    with pytest.raises(grpc.RpcError) as failure:
        service.ingest.IngestEvents(request)
    refused = read_refusal(failure.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_REFUSED")
    [description] = refused.violations.values()
    assert description == ("is a new name, and a batch may bring 4: send the row again in a later batch")


def test_ninety_thousand_names_in_one_batch(tmp_path: Path) -> None:
    request = pb.IngestEventsRequest(parent=ACCOUNT, input=INPUT)
    for number in range(9_000):
        event = request.events.add(user_id=f"u{number}", name="buy")
        event.time.FromSeconds(TIME_S)
        for place in range(10):
            event.attributes[f"name{number}-{place}"].number_value = 1
    with serving(tmp_path / "store") as service:
        service.create_inputs()
        answer = service.ingest.IngestEvents(request)
        assert answer.accepted == 99
        assert len(answer.rejections) == 9_000 - 99
        assert {each.reason for each in answer.rejections} == {"TOO_MANY_NAMES"}
        assert service.application.engine.backend.name_count(ACCOUNT) == 991
