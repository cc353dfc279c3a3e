"""ImportEvents through a real server: accepted and rejected rows, and interruptions."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine.errors import LimitExceeded
from milepost.v1 import ingest_service_pb2 as pb
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from milepost.v1.audience_service_pb2 import ListMembersRequest
from milepost.v1.catalog_service_pb2 import GetUserRequest, ListAttributesRequest, ListEventNamesRequest
from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, Event
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA, Journey, Milestone
from milepost.v1.journey_service_pb2 import CreateJourneyRequest, CreateMilestoneRequest
from milepost.v1.value_pb2 import Value
from service.arrow import importing
from service.arrow import stream as arrow_stream
from tests.arrow_requests import arrow_bytes, header, refused, requests
from tests.harness import ACCOUNT, CALL_TIMEOUT_S, INPUT, Serving, eventually, read_refusal, serving

T0 = 1_700_000_000_000_000
ROWS = 100_000
MESSAGE_BYTES = 1 << 20
NOWHERE = f"{ACCOUNT}/workspaces/w/inputs/nowhere"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", log_level="error") as running:
        running.create_inputs()
        yield running


def events_of(service: Serving) -> int:
    return int(service.admin.GetServerInfo(GetServerInfoRequest()).events)


def batch(*user_ids: str | None, **columns: Any) -> Any:
    """Rows a second apart."""
    times = [T0 + row * 1_000_000 for row in range(len(user_ids))]
    plain = {
        "user_id": pa.array(user_ids, pa.string()),
        "name": pa.array(["buy"] * len(user_ids)),
        "time": pa.array(times, pa.timestamp("us", "UTC")),
    }
    return pa.RecordBatch.from_pydict(plain | columns)


def run_import(
    service: Serving, stream: bytes, piece_bytes: int = 1_000, **fields: Any
) -> pb.ImportEventsResponse:
    return service.ingest.ImportEvents(
        requests(header(**fields), stream, piece_bytes), timeout=CALL_TIMEOUT_S
    )


def refusal_of_import(service: Serving, sent: Iterator[pb.ImportEventsRequest]) -> Any:
    with pytest.raises(grpc.RpcError) as failure:
        service.ingest.ImportEvents(sent, timeout=CALL_TIMEOUT_S)
    return read_refusal(failure.value)


# --- rows ---

TYPES = (
    *(pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float64(), pa.decimal128(20, 2)),
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(), pa.binary(4)),
    *(pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"), pa.timestamp("ns"), pa.duration("s")),
    *(pa.list_(pa.string()), pa.list_(pa.string_view()), pa.list_view(pa.string()), pa.list_(pa.int32())),
    *(pa.struct([("a", pa.int8())]), pa.map_(pa.string(), pa.string()), pa.month_day_nano_interval()),
    *(pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.string_view())),
    *(pa.dictionary(pa.int8(), pa.binary()), pa.dictionary(pa.int8(), pa.int64())),
    *(pa.run_end_encoded(pa.int32(), pa.string()), pa.uuid(), pa.json_(), pa.bool8()),
    pa.sparse_union([pa.field("a", pa.int8()), pa.field("b", pa.string_view())]),
    pa.dense_union([pa.field("a", pa.binary()), pa.field("b", pa.string())]),
)


@pytest.mark.parametrize("column", ["user_id", "name", "time", "attribute"])
def test_every_type_of_a_column_is_taken_or_refused_by_its_name(service: Serving, column: str) -> None:
    refused_types = 0
    for type_ in TYPES:
        stream = arrow_bytes(batch("ann", **{column: pa.nulls(1, type_)}))
        try:
            run_import(service, stream)
        except grpc.RpcError as error:
            refusal = read_refusal(error)
            refused_types += 1
            assert list(refusal.violations) == [f"arrow[{column!r}]"], type_
            assert re.search("has the type .*; it must be ", refusal.message), type_
    assert 0 < refused_types < len(TYPES)


@pytest.mark.parametrize("type_", [pa.string_view(), pa.dictionary(pa.int8(), pa.string_view())])
def test_views_of_texts_are_read_in_every_column(service: Serving, type_: Any) -> None:
    columns = {"user_id": "ann", "name": "buy", "time": "2024-01-01T00:00:00Z", "tier": "gold"}
    viewed = {name: pa.array([text, text]).cast(type_) for name, text in columns.items()}
    made = run_import(service, arrow_bytes(batch("ann", "bob", **viewed)))
    assert (made.accepted, made.rejected) == (2, 0)


def test_rejected_row_does_not_affect_other_rows(service: Serving) -> None:
    future = T0 + 100 * 365 * 86_400 * 1_000_000
    first = batch("ann", None, "bob", "")
    second = batch("cid", "u" * 257, "eve").set_column(
        2, "time", pa.array([T0, T0, future], pa.timestamp("us", "UTC"))
    )
    answer = run_import(service, arrow_bytes(first, second))
    assert (answer.accepted, answer.duplicates, answer.rejected) == (3, 0, 4)
    assert refused(answer) == {
        ("REQUIRED", "user_id", "is required"): [1, 3],
        ("NAME_TOO_LONG", "user_id", "is longer than 256 bytes"): [5],
        ("EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"): [6],
    }
    assert [(each.index, each.field) for each in answer.rejections] == [
        (1, "rows[1].user_id"),
        (3, "rows[3].user_id"),
        (5, "rows[5].user_id"),
        (6, "rows[6].time"),
    ]
    assert events_of(service) == 3


def test_conversion_and_engine_faults_are_reported_together(service: Serving) -> None:
    sent = batch(
        *"abcdef", n=pa.array([1 << 60, 1, 2, 1 << 60, 3, 4]), x=pa.array([0, 0, float("inf"), 0, 0, 0])
    )
    answer = run_import(service, arrow_bytes(sent), skip_rows=1)
    # The first row is skipped; the places of the others are those in the stream.
    assert (answer.accepted, answer.rejected) == (3, 2)
    inexact = "is an integer beyond 2^53, which no number holds exactly"
    assert refused(answer) == {
        ("INVALID_VALUE", "attributes['n']", inexact): [3],
        ("INVALID_VALUE", "attributes['x']", "must be a finite number"): [2],
    }
    assert [each.index for each in answer.rejections] == [2, 3]


def test_fully_rejected_import_is_answered(service: Serving) -> None:
    answer = run_import(service, arrow_bytes(batch(None, None)))
    assert (answer.accepted, answer.rejected) == (0, 2)
    assert events_of(service) == 0


def test_an_import_without_rows_is_answered(service: Serving) -> None:
    answer = run_import(service, arrow_bytes(batch()))
    assert (answer.accepted, answer.rejected) == (0, 0)
    assert answer.revision == service.admin.GetServerInfo(GetServerInfoRequest()).revision


def test_all_rejected_rows_are_listed(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 700)
    names = pa.array([None if row % 2 else "buy" for row in range(4_000)])
    sent = batch(*["u"] * 4_000).set_column(1, "name", names)
    answer = run_import(service, arrow_bytes(sent))
    assert (answer.accepted, answer.rejected) == (2_000, 2_000)
    assert refused(answer) == {("REQUIRED", "name", "is required"): list(range(1, 4_000, 2))}
    assert [each.index for each in answer.rejections] == list(range(1, 2_000, 2))


def test_faults_beyond_a_limit_are_listed_by_reason_and_field(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "IMPORT_REASONS_MAX", 2)
    sent = batch(*["u"] * 5, input=pa.array([f"no-{row}" for row in range(4)] + [None]))
    answer = run_import(service, arrow_bytes(sent), input_column="input", input="")
    assert answer.rejected == 5
    assert refused(answer) == {
        ("UNKNOWN_INPUT", "input", "input 'no-0' does not exist"): [0],
        ("UNKNOWN_INPUT", "input", "input 'no-1' does not exist"): [1],
        ("UNKNOWN_INPUT", "input", importing.FURTHER_ROWS): [2, 3],
        ("REQUIRED", "input", importing.FURTHER_ROWS): [4],
    }


def test_all_columns_arrive(service: Serving) -> None:
    sent = batch(
        "ann",
        "ann",
        kind=pa.array(["commerce", None]),
        event_id=pa.array(["e1", "e1"]).dictionary_encode(),
        plan=pa.array(["gold", None]).dictionary_encode(),
        price=pa.array([9.5, None]),
    )
    answer = run_import(service, arrow_bytes(sent), type_column="kind")
    assert (answer.accepted, answer.duplicates) == (1, 1)
    catalog = service.catalog
    [name] = catalog.ListEventNames(ListEventNamesRequest(parent=ACCOUNT)).event_names
    assert (name.name, name.event_type, name.events) == ("buy", EVENT_TYPE_COMMERCE, 1)
    listed = catalog.ListAttributes(ListAttributesRequest(parent=ACCOUNT, event_name="buy")).attributes
    assert [each.key for each in listed] == ["plan", "price"]


# --- as IngestEvents ---


def world(rows: int) -> Any:
    drawn = np.random.default_rng(7)
    names = np.array(["view", "buy", "cart"])
    plans = pa.array(["gold", "silver", None])
    return pa.RecordBatch.from_pydict(
        {
            "user_id": pa.array([f"u{each}" for each in drawn.integers(0, rows // 20, rows)]),
            "name": pa.array(names[drawn.integers(0, 3, rows)]),
            "time": pa.array(T0 + drawn.integers(0, 30 * 86_400 * 10**6, rows), pa.timestamp("us", "UTC")),
            "event_id": pa.array([f"e{each}" for each in drawn.integers(0, rows * 3, rows)]),
            "price": pa.array(drawn.integers(0, 10_000, rows) / 100, mask=drawn.random(rows) < 0.3),
            "plan": plans.take(pa.array(drawn.integers(0, 3, rows))),
            "new": pa.array(drawn.random(rows) < 0.5),
        }
    )


def messages(table: Any) -> list[Event]:
    made = []
    for row in table.to_pylist():
        seconds, micros = divmod(int(row["time"].timestamp() * 1_000_000 + 0.5), 1_000_000)
        event = Event(user_id=row["user_id"], name=row["name"], event_id=row["event_id"])
        event.time.CopyFrom(Timestamp(seconds=seconds, nanos=micros * 1_000))
        if row["price"] is not None:
            event.attributes["price"].CopyFrom(Value(number_value=row["price"]))
        if row["plan"] is not None:
            event.attributes["plan"].CopyFrom(Value(string_value=row["plan"]))
        event.attributes["new"].CopyFrom(Value(bool_value=row["new"]))
        made.append(event)
    return made


def seen_by_readers(service: Serving) -> Any:
    """All observable state: the catalog, profiles, sizes and members."""
    from milepost.criteria import event, event_attribute

    service.journeys.CreateJourney(CreateJourneyRequest(parent=ACCOUNT, journey_id="j", journey=Journey()))
    made = {
        "gold": event("buy", where=event_attribute("plan").equals("gold")).count() >= 2,
        "sum": event("buy").sum("price") > 100,
        "new": event("view", where=event_attribute("new").equals(True)).happened(),
        "late": event("").latest("price") < 20,
    }
    members = {}
    for name, criteria in made.items():
        milestone = Milestone(display_name=name, kind=MILESTONE_KIND_CRITERIA, criteria=criteria)
        service.journeys.CreateMilestone(
            CreateMilestoneRequest(parent=f"{ACCOUNT}/journeys/j", milestone_id=name, milestone=milestone)
        )
        listed: list[str] = []
        request = ListMembersRequest(parent=f"{ACCOUNT}/journeys/j/milestones/{name}", page_size=1_000)
        while True:
            page = service.audiences.ListMembers(request)
            listed += page.user_ids
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        members[name] = sorted(listed)
    catalog = service.catalog
    names = catalog.ListEventNames(ListEventNamesRequest(parent=ACCOUNT)).event_names
    users = [
        catalog.GetUser(GetUserRequest(parent=ACCOUNT, user_id=f"u{number}")).user for number in range(20)
    ]
    return members, list(names), users


def test_import_equals_the_same_events_in_batches(tmp_path: Path) -> None:
    table = world(ROWS)
    with serving(tmp_path / "one", log_level="error") as service:
        service.create_inputs()
        # In uneven record batches, and pieces of the size that clients send.
        cuts = [0, 10, 30_000, 65_000, 65_001, ROWS]
        parts = [table.slice(start, end - start) for start, end in pairwise(cuts)]
        imported = run_import(service, arrow_bytes(*parts), MESSAGE_BYTES)
        by_import = seen_by_readers(service)
    with serving(tmp_path / "other", log_level="error") as service:
        service.create_inputs()
        accepted = duplicates = 0
        for start in range(0, ROWS, 10_000):
            sent = messages(table.slice(start, 10_000))
            answer = service.ingest.IngestEvents(
                pb.IngestEventsRequest(parent=ACCOUNT, input=INPUT, events=sent)
            )
            accepted, duplicates = accepted + answer.accepted, duplicates + answer.duplicates
        by_batches = seen_by_readers(service)
    assert (imported.accepted, imported.duplicates, imported.rejected) == (accepted, duplicates, 0)
    assert duplicates > 10_000
    assert {name: len(users) >= 10 for name, users in by_import[0].items()} == dict.fromkeys(
        by_import[0], True
    )
    assert by_import == by_batches


# --- again ---


def test_an_import_repeated_under_its_id_is_applied_once(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 3)
    stream = arrow_bytes(batch(*"abcdefgh"), batch(*"ijk"))
    first = run_import(service, stream, request_id="r")
    again = run_import(service, stream, request_id="r")
    assert (first.accepted, again.accepted) == (11, 11)
    assert events_of(service) == 11
    assert again.revision == first.revision
    other = run_import(service, stream, request_id="s")
    assert other.accepted == 11
    assert events_of(service) == 22


def test_longer_import_under_the_same_id_adds_the_new_rows(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 4)
    run_import(service, arrow_bytes(batch(*"abcd")), request_id="r")
    answer = run_import(service, arrow_bytes(batch(*"abcdef")), request_id="r")
    assert answer.accepted == 6
    assert events_of(service) == 6


def test_small_record_batches_are_merged(service: Serving) -> None:
    before = service.admin.GetServerInfo(GetServerInfoRequest()).revision
    answer = run_import(service, arrow_bytes(*(batch(user) for user in "abcdefghij")))
    assert answer.accepted == 10
    assert int(answer.revision.split(".")[1]) == int(before.split(".")[1]) + 1


# --- broken off ---


def test_disconnected_caller_leaves_complete_batches(
    service: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 100)
    stream = arrow_bytes(*(batch(*(f"u{row}" for row in range(100))) for _ in range(6)))
    gone = threading.Event()

    def sent() -> Iterator[pb.ImportEventsRequest]:
        # Three record batches and a half, then nothing more until the call is cancelled.
        yield from requests(header(request_id="r"), stream[: len(stream) * 6 // 10], 500)
        gone.wait()

    call = service.ingest.ImportEvents.future(sent())
    eventually(lambda: events_of(service) >= 300)
    call.cancel()
    gone.set()
    eventually(lambda: service.application.in_flight == 0)
    assert events_of(service) == 300
    # The same import once more, whole: each batch counts once.
    assert run_import(service, stream, request_id="r").accepted == 600
    assert events_of(service) == 600
    assert "defect" not in caplog.text


def test_interrupted_stream_reports_processed_rows(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 2)
    whole = arrow_bytes(batch(*"abcd"), batch(*"efgh"))
    refusal = refusal_of_import(service, requests(header(), whole[: len(whole) - 100]))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert list(refusal.violations) == ["arrow"]
    assert refusal.violations["arrow"].startswith("is not a valid Arrow IPC stream: ")
    assert refusal.metadata["rows"] == "4"
    assert events_of(service) == 4
    # The rest goes in by skipping those.
    assert run_import(service, whole, skip_rows=4).accepted == 4
    assert events_of(service) == 8


def corrupted() -> bytes:
    """A stream whose text offsets lie outside of the text."""
    whole = arrow_bytes(batch("ann"))
    right, wrong = (np.array([0, end], np.int32).tobytes() for end in (3, 1 << 20))
    before, _, after = whole.rpartition(right)
    assert before
    return before + wrong + after


@pytest.mark.parametrize(
    ("sent", "field", "description"),
    [
        ([], "header", "is required in the first message"),
        ([pb.ImportEventsRequest()], "header", "is required in the first message"),
        ([pb.ImportEventsRequest(arrow=b"x")], "header", "is required in the first message"),
        (requests(header(), b""), "arrow", "is not a valid Arrow IPC stream: "),
        (requests(header(), b"user_id,name\nann,buy\n" * 10), "arrow", ""),
        (requests(header(), corrupted()), "arrow", ""),
        (
            [*requests(header(), arrow_bytes(batch("a"))[:8]), pb.ImportEventsRequest(header=header())],
            "header",
            "must be sent once, in the first message",
        ),
        (requests(header(request_id="r" * 201), b""), "header.request_id", "is longer than 200 bytes"),
        (requests(header(skip_rows=-1), b""), "header.skip_rows", "must not be negative"),
        (
            requests(header(time_column="at"), arrow_bytes(batch("a"))),
            "header.time_column",
            "the stream has no",
        ),
        (
            requests(header(), arrow_bytes(batch("a", x=pa.array([b"x"])))),
            "arrow['x']",
            "has the type binary; it must be strings,",
        ),
    ],
)
def test_malformed_import_is_refused_by_field(
    service: Serving, sent: Any, field: str, description: str
) -> None:
    refusal = refusal_of_import(service, iter(sent))
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(refusal.violations) == [field]
    assert refusal.violations[field].startswith(description)
    assert events_of(service) == 0


def test_unknown_account_is_refused_before_reading(service: Serving) -> None:
    waiting = threading.Event()

    def sent() -> Iterator[pb.ImportEventsRequest]:
        yield pb.ImportEventsRequest(header=header(parent="accounts/nobody"))
        waiting.wait()

    refusal = refusal_of_import(service, sent())
    waiting.set()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


def test_unknown_input_rejects_its_rows(service: Serving) -> None:
    sent = batch("a", "b", where=pa.array([NOWHERE, None]))
    answer = run_import(service, arrow_bytes(sent), input_column="where")
    assert answer.accepted == 1
    assert refused(answer) == {("UNKNOWN_INPUT", "input", f"input '{NOWHERE}' does not exist"): [0]}


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"input": NOWHERE}, grpc.StatusCode.NOT_FOUND, f"{NOWHERE} does not exist"),
        # It is refused even if every row names its own input.
        (
            {"input": NOWHERE, "input_column": "where"},
            grpc.StatusCode.NOT_FOUND,
            f"{NOWHERE} does not exist",
        ),
        (
            {"input": "accounts/b/workspaces/w/inputs/i"},
            grpc.StatusCode.INVALID_ARGUMENT,
            f"header.input: must be an input of {ACCOUNT}",
        ),
        ({"input": "w/i"}, grpc.StatusCode.INVALID_ARGUMENT, "header.input: "),
        ({"input": ""}, grpc.StatusCode.INVALID_ARGUMENT, "header.input: is required"),
        ({"parent": "a"}, grpc.StatusCode.INVALID_ARGUMENT, "header.parent: "),
    ],
)
def test_header_that_rejects_every_row_is_refused_once(
    service: Serving, fields: dict[str, str], code: grpc.StatusCode, said: str
) -> None:
    sent = batch(*"abc", where=pa.array([INPUT] * 3))
    refusal = refusal_of_import(service, requests(header(**fields), arrow_bytes(sent)))
    assert refusal.code == code
    assert refusal.message.startswith(said)
    assert refusal.metadata["rows"] == "0"
    assert events_of(service) == 0


def test_import_without_pyarrow_is_unimplemented(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "service.arrow.importing", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "service.arrow.columns", raising=False)
    refusal = refusal_of_import(service, requests(header(), b""))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_BUILT")
    assert "milepost-server[import]" in refusal.message


def test_full_store_ends_the_call_while_the_caller_sends(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 1)
    columns = service.application.engine.ingest.columns
    taken: list[Any] = []

    def until_full(*arguments: Any) -> Any:
        if len(taken) == 2:
            raise LimitExceeded("the disk is full", reason="STORE_FULL")
        taken.append(arguments)
        return columns(*arguments)

    monkeypatch.setattr(service.application.engine.ingest, "columns", until_full)
    waiting = threading.Event()

    def sent() -> Iterator[pb.ImportEventsRequest]:
        stream = arrow_bytes(batch(*"abcdef"))
        yield from requests(header(), stream)
        waiting.wait()

    refusal = refusal_of_import(service, sent())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL")
    assert refusal.metadata["rows"] == "2"
    assert events_of(service) == 2
    # Nothing is left of the call, although its caller has not ended the stream.
    eventually(lambda: "import-ahead" not in {thread.name for thread in threading.enumerate()})
    waiting.set()


# --- limits ---


def test_oversized_record_batch_is_refused_before_loading(tmp_path: Path) -> None:
    with serving(tmp_path / "store", log_level="error", import_batch_bytes_max=2_000) as service:
        service.create_inputs()
        small, large = batch("a"), batch(*(f"user {row}" for row in range(200)))
        refusal = refusal_of_import(service, requests(header(), arrow_bytes(small, large)))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
        assert list(refusal.violations) == ["arrow"]
        assert refusal.metadata["limit"] == "2000"
        assert int(refusal.metadata["actual"]) > 2_000
        packed = pa.ipc.IpcWriteOptions(compression="zstd")
        same = batch(*["a" * 200] * 100)
        refusal = refusal_of_import(service, requests(header(), arrow_bytes(same, options=packed)))
        assert refusal.reason == "BATCH_TOO_LARGE"


def test_oversized_message_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path / "store", log_level="error", batch_bytes_max=1_000) as service:
        service.create_inputs()
        stream = arrow_bytes(batch(*(f"user {row}" for row in range(200))))
        refusal = refusal_of_import(service, requests(header(), stream, 2_000))
        assert refusal.reason == "BATCH_TOO_LARGE"
        assert list(refusal.violations) == ["arrow"]


def test_concurrent_imports_are_limited(tmp_path: Path) -> None:
    with serving(tmp_path / "store", log_level="error", imports_max=1) as service:
        service.create_inputs()
        stream = arrow_bytes(batch("a"))
        waiting = threading.Event()

        def sent() -> Iterator[pb.ImportEventsRequest]:
            # An import is answered at the end of its Arrow stream, so that end waits.
            yield from requests(header(), stream[:-1])
            waiting.wait()
            yield pb.ImportEventsRequest(arrow=stream[-1:])

        first = service.ingest.ImportEvents.future(sent())
        eventually(lambda: service.application.in_flight == 1)
        refusal = refusal_of_import(service, requests(header(), arrow_bytes(batch("b"))))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LIMIT_EXCEEDED")
        assert refusal.metadata == {"limit": "1", "pool": "import"}
        waiting.set()
        assert first.result().accepted == 1
        assert run_import(service, arrow_bytes(batch("b"))).accepted == 1


def test_an_import_ends_when_the_service_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 1)
    with serving(tmp_path / "store", log_level="error") as service:
        service.create_inputs()
        stopped = threading.Event()
        stream = arrow_bytes(batch("a"), batch("b"), batch("c"))

        def sent() -> Iterator[pb.ImportEventsRequest]:
            yield from requests(header(), stream[: len(stream) // 2])
            stopped.wait()
            yield pb.ImportEventsRequest(arrow=stream[len(stream) // 2 :])

        call = service.ingest.ImportEvents.future(sent())
        eventually(lambda: events_of(service) >= 1)
        stopping = threading.Thread(target=service.application.stop)
        stopping.start()
        eventually(lambda: not serving_now(service))
        stopped.set()
        with pytest.raises(grpc.RpcError) as failure:
            call.result()
        refusal = read_refusal(failure.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        stopping.join()


def serving_now(service: Serving) -> bool:
    """Whether a new call is taken."""
    try:
        events_of(service)
    except grpc.RpcError:
        return False
    return True
