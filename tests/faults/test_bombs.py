"""Messages of a megabyte that unpack to a gigabyte are refused without unpacking.

The service is a separate process; the kernel reports its peak memory (`VmHWM`). It handles an import first,
to load what that needs, and works normally afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from milepost.cli.service_process import ServiceProcess
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from tests.arrow_requests import arrow_bytes, header, requests
from tests.bench.process import status_bytes
from tests.harness import CALL_TIMEOUT_S, Stubs, read_refusal

COLUMNS = 128
ROWS = 1_000_000
"""Of eight bytes each: a gigabyte in all columns."""
LIMIT_BYTES = 64 * 1024 * 1024
GROWTH_BYTES_MAX = 200_000_000
PIECE_BYTES = 1_000_000
GRPC_BYTES = 300_000_000

Bomb = Callable[[], bytes]


def batch_of_zeros(codec: str) -> bytes:
    # One array for all columns: this process has it once, the stream many times.
    zeros = pa.array(np.zeros(ROWS, np.int64))
    names = {f"c{each}": zeros for each in range(COLUMNS)}
    own = {"user_id": pa.nulls(ROWS, pa.string()), "name": pa.nulls(ROWS, pa.string()), "time": zeros}
    batch = pa.RecordBatch.from_pydict({**own, **names})
    return arrow_bytes(batch, options=pa.ipc.IpcWriteOptions(compression=codec))


def dictionaries_of_zeros() -> bytes:
    """Texts of 32 megabytes, each added to the dictionary of the one before, ahead of any row."""
    text = "0" * (LIMIT_BYTES // 2)
    names = ["user_id", "name", "time"]

    def batch(texts: int) -> Any:
        entries = pa.array([f"{number}{text}" for number in range(texts)], pa.large_string())
        coded = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), entries)
        return pa.RecordBatch.from_arrays([coded, pa.array(["buy"]), pa.array([0])], names)

    options = pa.ipc.IpcWriteOptions(compression="zstd", emit_dictionary_deltas=True)
    first, second = (arrow_bytes(batch(texts), batch(texts + 1), options=options) for texts in (1, 2))
    schema, dictionary, _, delta, rows = pa.ipc.MessageReader.open_stream(first)
    assert len(second) > len(first)
    parts = [schema, dictionary, *[delta] * 30, rows]
    return b"".join(part.serialize().to_pybytes() for part in parts)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    store = tmp_path_factory.mktemp("bombs") / "store"
    with ServiceProcess(store, flags=("--log-level", "error")) as process:
        stubs = Stubs(process.target)
        stubs.create_inputs()
        stubs.close()
        take_an_import(process)
        yield process


def take_an_import(service: ServiceProcess) -> None:
    """Lets the service take an import of a thousand rows, compressed, as many as it takes any day."""
    columns = {"user_id": [f"u{each}" for each in range(1_000)], "name": ["buy"] * 1_000, "time": [0] * 1_000}
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    stream = arrow_bytes(pa.RecordBatch.from_pydict(columns), options=options)
    stubs = Stubs(service.target)
    before = stubs.admin.GetServerInfo(GetServerInfoRequest()).events
    assert stubs.ingest.ImportEvents(requests(header(), stream)).accepted == 1_000
    assert stubs.admin.GetServerInfo(GetServerInfoRequest()).events == before + 1_000
    stubs.close()


@pytest.mark.parametrize(
    "bomb",
    [lambda: batch_of_zeros("zstd"), lambda: batch_of_zeros("lz4"), dictionaries_of_zeros],
    ids=["zstd", "lz4", "dictionaries"],
)
def test_import_is_limited_by_its_unpacked_size(service: ServiceProcess, bomb: Bomb) -> None:
    stream = bomb()
    assert len(stream) < 6_000_000
    most = status_bytes(service.pid, "VmHWM")
    stubs = Stubs(service.target)
    with pytest.raises(grpc.RpcError) as refused:
        stubs.ingest.ImportEvents(requests(header(), stream, PIECE_BYTES), timeout=CALL_TIMEOUT_S)
    refusal = read_refusal(refused.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
    assert refusal.metadata["limit"] == str(LIMIT_BYTES)
    # Of the dictionaries, what there is when they become too many.
    least = LIMIT_BYTES if bomb is dictionaries_of_zeros else COLUMNS * 8 * ROWS
    assert least < int(refusal.metadata["actual"]) < 1.1 * least
    assert refusal.metadata["rows"] == "0"
    stubs.close()
    assert status_bytes(service.pid, "VmHWM") - most < GROWTH_BYTES_MAX
    take_an_import(service)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_message_is_limited_by_its_unpacked_size(
    service: ServiceProcess, compression: grpc.Compression
) -> None:
    most = status_bytes(service.pid, "VmHWM")
    with grpc.insecure_channel(service.target, [("grpc.max_send_message_length", -1)]) as channel:
        ingest: Callable[..., Any] = channel.unary_unary("/milepost.v1.IngestService/IngestEvents")
        with pytest.raises(grpc.RpcError) as refused:
            ingest(bytes(GRPC_BYTES), timeout=CALL_TIMEOUT_S, compression=compression)
    assert read_refusal(refused.value).code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert status_bytes(service.pid, "VmHWM") - most < GROWTH_BYTES_MAX
    take_an_import(service)
