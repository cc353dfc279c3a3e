"""The announced sizes of messages, compared with what Arrow unpacks."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import InvalidInput
from service.arrow.messages import checked
from service.arrow.stream import RecordBatches
from tests.arrow_requests import arrow_bytes

ROWS = 10_000
MAX = 1 << 40


def zeros(columns: int = 1) -> Any:
    return pa.RecordBatch.from_pydict({f"c{each}": pa.array(np.zeros(ROWS)) for each in range(columns)})


def packed(codec: str) -> Any:
    return pa.ipc.IpcWriteOptions(compression=codec)


def passed(stream: bytes, bytes_max: int) -> bytes:
    """The stream as its reader receives it."""
    return b"".join(checked(io.BytesIO(stream).read, bytes_max))


def refused_for(stream: bytes, bytes_max: int) -> tuple[str, int]:
    """The reason of the refusal, and the size in it."""
    with pytest.raises(InvalidInput) as refusal:
        passed(stream, bytes_max)
    return refusal.value.reason, int(refusal.value.metadata.get("actual", 0))


def messages(stream: bytes) -> list[Any]:
    return list(pa.ipc.MessageReader.open_stream(stream))


def joined(*parts: Any) -> bytes:
    """A stream of these messages."""
    return b"".join(part.serialize().to_pybytes() for part in parts) + b"\xff\xff\xff\xff\0\0\0\0"


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_valid_stream_is_unchanged(codec: str | None) -> None:
    options = None if codec is None else packed(codec)
    table = pa.RecordBatch.from_pydict(
        {"user": pa.array(["a", None, "b"]).dictionary_encode(), "lists": pa.array([["x"], [], None])}
    )
    for stream in (arrow_bytes(zeros(3), zeros(3), options=options), arrow_bytes(table, options=options)):
        assert passed(stream, MAX) == stream
        assert passed(stream[:-8], MAX) == stream[:-8]
        cut = stream[: len(stream) // 2]
        assert passed(cut, MAX) == cut


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_batch_is_limited_by_its_unpacked_size(codec: str) -> None:
    stream = arrow_bytes(zeros(50), options=packed(codec))
    size_bytes = 50 * 8 * ROWS
    assert len(stream) < size_bytes // 10
    assert passed(stream, size_bytes) == stream
    assert refused_for(stream, size_bytes - 1) == ("BATCH_TOO_LARGE", size_bytes)


def test_compression_of_early_arrow_is_recognised() -> None:
    """Metadata that say so in another place: that of a batch, its compression renamed."""
    schema, batch = messages(arrow_bytes(zeros(), options=packed("zstd")))
    plain, _ = messages(arrow_bytes(zeros()))
    assert schema.equals(plain)
    # The field of the compression is put out of sight, and the key of Arrow 0.17 appended.
    metadata = bytearray(batch.metadata.to_pybytes())
    header = hidden_compression(metadata) + b"ARROW:experimental_compression".ljust(32, b"\0")
    body = batch.body.to_pybytes()
    early = b"\xff\xff\xff\xff" + len(header).to_bytes(4, "little") + header + body
    stream = schema.serialize().to_pybytes() + early
    assert refused_for(stream, 8 * ROWS - 1) == ("BATCH_TOO_LARGE", 8 * ROWS)


def hidden_compression(metadata: bytearray) -> bytes:
    """The metadata of a record batch, the field with its compression left out."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(metadata[at : at + size], "little", signed=size == 4)

    def field(table: int, index: int) -> int:
        return table - number(table, 4) + 4 + 2 * index

    message = number(0, 4)
    place = message + number(field(message, 2), 2)
    batch = place + number(place, 4)
    compression = field(batch, 3)
    assert number(compression, 2)
    metadata[compression : compression + 2] = b"\0\0"
    return bytes(metadata)


def test_dictionaries_share_one_limit() -> None:
    """Each message is small enough, but the reader would hold all of them before the first batch."""
    count, texts = 20, 10
    entries = [f"{number:03}" * 1_000 for number in range(count * texts)]
    growing = [
        pa.RecordBatch.from_arrays(
            [pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), entries[: texts * each])], ["c"]
        )
        for each in range(1, count + 1)
    ]
    options = pa.ipc.IpcWriteOptions(compression="zstd", emit_dictionary_deltas=True)
    schema, *rest = messages(arrow_bytes(*growing, options=options))
    dictionaries = [each for each in rest if each.type == "dictionary"]
    assert len(dictionaries) == count
    # All of them first.
    stream = joined(schema, *dictionaries, rest[-1])
    of_one = 3_000 * texts
    reason, actual = refused_for(stream, 5 * of_one)
    assert reason == "BATCH_TOO_LARGE"
    assert 5 * of_one < actual < 6 * of_one
    assert passed(stream, (count + 1) * of_one) == stream
    # A dictionary that takes the place of another counts alone.
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    texts_apart = [
        pa.RecordBatch.from_pydict(
            {"c": pa.array(entries[start : start + texts], pa.string()).dictionary_encode()}
        )
        for start in range(0, len(entries), texts)
    ]
    stream = arrow_bytes(*texts_apart, options=options)
    assert passed(stream, 2 * of_one) == stream


def test_impossible_sizes_are_refused() -> None:
    stream = bytearray(arrow_bytes(zeros(), options=packed("zstd")))
    size = (8 * ROWS).to_bytes(8, "little")
    at = stream.index(size)
    assert stream.count(size) == 1
    stream[at : at + 8] = (-2).to_bytes(8, "little", signed=True)
    assert refused_for(bytes(stream), MAX)[0] == "INVALID_ARGUMENT"
    # The marker of an uncompressed buffer, whose size is its length.
    stream[at : at + 8] = b"\xff" * 8
    assert passed(bytes(stream), len(stream)) == bytes(stream)
    # A size that is not true is found out by the codec, which unpacks no more than was said.
    stream[at : at + 8] = (8 * ROWS - 8).to_bytes(8, "little")
    assert passed(bytes(stream), MAX) == bytes(stream)
    with pytest.raises(InvalidInput, match=r"is not a valid Arrow IPC stream"):
        list(RecordBatches(iter([bytes(stream)]), MAX))


def test_each_view_of_a_string_counts() -> None:
    # A view: the length, the first four bytes, the number of the buffer, the place in it.
    view = struct.pack("<i4sii", 5_000, b"xxxx", 0, 0)
    buffers = [None, pa.py_buffer(view * 1_000), pa.py_buffer(b"x" * 5_000)]
    batch = pa.RecordBatch.from_pydict({"c": pa.Array.from_buffers(pa.string_view(), 1_000, buffers)})
    assert len(list(RecordBatches(iter([arrow_bytes(batch)]), 10_000_000))) == 1
    with pytest.raises(InvalidInput) as refusal:
        list(RecordBatches(iter([arrow_bytes(batch)]), 4_000_000))
    assert refusal.value.reason == "BATCH_TOO_LARGE"
    assert int(refusal.value.metadata["actual"]) > 5_000 * 1_000
