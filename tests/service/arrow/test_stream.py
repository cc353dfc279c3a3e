"""Arrow streams: batching, changing dictionaries, and malformed input."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from engine.errors import InvalidInput
from milepost.v1 import ingest_service_pb2 as pb
from service.arrow import stream as arrow_stream
from service.arrow.columns import convert
from service.arrow.importing import batches_of
from service.arrow.layout import layout_of
from service.arrow.stream import RecordBatches, recut, without_first
from tests.arrow_requests import arrow_bytes

BYTES_MAX = 1 << 26
BREAKS = 400


def record_batches(stream: bytes) -> RecordBatches:
    pieces = (stream[start : start + 7] for start in range(0, len(stream), 7))
    return RecordBatches(pieces, BYTES_MAX)


def numbered(first: int, count: int) -> Any:
    return pa.RecordBatch.from_pydict({"n": list(range(first, first + count))})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([10], [10]),
        ([11], [10, 1]),
        ([25], [10, 10, 5]),
        ([3, 3, 3, 3], [9, 3]),
        ([4, 6, 4], [10, 4]),
        ([9, 2, 9], [9, 2, 9]),
        ([2, 25, 5, 1], [2, 10, 10, 10, 1]),
        ([0, 0], []),
        ([0, 1, 0, 1], [2]),
    ],
)
def test_batches_are_cut_by_their_rows_alone(
    given: list[int], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_BATCH_ROWS", 10)
    starts = [sum(given[:at]) for at in range(len(given))]
    cut = list(recut(iter(numbered(start, count) for start, count in zip(starts, given, strict=True))))
    assert [batch.num_rows for batch in cut] == expected
    assert [row["n"] for batch in cut for row in batch.to_pylist()] == list(range(sum(given)))


def test_large_batches_are_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_stream, "IMPORT_GATHERED_BYTES_MAX", 8 * 5)
    cut = recut(iter([numbered(0, 3), numbered(3, 2), numbered(5, 1), numbered(6, 9)]))
    assert [batch.num_rows for batch in cut] == [5, 1, 9]


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 7, 9])
def test_rows_are_skipped_across_batches(rows: int) -> None:
    left = without_first(iter([numbered(0, 3), numbered(3, 4)]), rows)
    assert [row["n"] for batch in left for row in batch.to_pylist()] == list(range(7))[rows:]


def coded(*user_ids: str, index: Any = None) -> Any:
    array = pa.array(user_ids).dictionary_encode()
    if index is not None:
        array = array.cast(pa.dictionary(index, pa.string()))
    times = pa.array([0] * len(user_ids), pa.timestamp("us"))
    return pa.RecordBatch.from_pydict({"user_id": array, "time": times})


def user_ids_in(stream: bytes) -> list[str]:
    batches = record_batches(stream)
    layout = layout_of(pb.ImportHeader(default_name="n"), batches.schema.names)
    columns = [convert(batch, layout).columns.user_ids for batch in recut(iter(batches))]
    return [column.entries[code] for column in columns for code in column.codes.tolist()]


@pytest.mark.parametrize("deltas", [False, True])
def test_dictionaries_may_change_and_grow(deltas: bool) -> None:
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=deltas)
    stream = arrow_bytes(coded("a", "b"), coded("a", "b", "c", "a"), coded("x", "a"), options=options)
    assert user_ids_in(stream) == ["a", "b", "a", "b", "c", "a", "x", "a"]


def test_dictionaries_too_large_to_merge_stay_separate() -> None:
    # Codes of 8 bits tell 128 entries apart; these have 200.
    first, second = [f"a{each}" for each in range(100)], [f"b{each}" for each in range(100)]
    stream = arrow_bytes(coded(*first, index=pa.int8()), coded(*second, index=pa.int8()))
    assert user_ids_in(stream) == first + second


def test_malformed_stream_is_the_callers_fault() -> None:
    """Random byte changes: the stream is read, or refused as malformed; no other error occurs."""
    batch = pa.RecordBatch.from_pydict(
        {
            "user_id": pa.array(["a", "bb", None]),
            "name": pa.array(["x", "y", "x"]).dictionary_encode(),
            "time": pa.array([1, 2, 3], pa.timestamp("ns")),
            "list": pa.array([["a"], None, ["b", "c"]]),
            "decimal": pa.array([Decimal("1.5"), None, Decimal("2")], pa.decimal128(9, 2)),
            "view": pa.array(["q", "r", "s"], pa.string_view()),
            "union": pa.UnionArray.from_dense(
                pa.array([0, 1, 0], pa.int8()),
                pa.array([0, 0, 1], pa.int32()),
                [pa.array(["a", "b"]), pa.array([1.5])],
            ),
        }
    )
    whole = arrow_bytes(batch, batch)
    drawn = random.Random(20_251_125)
    outcomes = {True: 0, False: 0}
    for _ in range(BREAKS):
        broken = bytearray(whole)
        at = drawn.randrange(len(broken))
        broken[at : at + 4] = drawn.choice(
            [b"\xff\xff\xff\xff", b"\x00", b"\xff\xff\xff\x7f", b"\xe8\x03\0\0"]
        )
        outcomes[is_read(bytes(broken))] += 1
    assert min(outcomes.values()) > BREAKS // 20


def is_read(stream: bytes) -> bool:
    """Whether the stream is read to its end; raises unexpected errors."""
    requests = iter([pb.ImportEventsRequest(arrow=stream)])
    try:
        return len(list(batches_of(pb.ImportHeader(input="i"), requests, BYTES_MAX))) > 0
    except InvalidInput as error:
        fields = [violation.field for violation in error.violations]
        assert all(field.startswith(("arrow", "header.")) for field in fields)
        return False
