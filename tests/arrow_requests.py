"""Builds import requests."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from milepost.v1 import ingest_service_pb2 as pb
from tests.harness import ACCOUNT, INPUT

PIECE_BYTES = 1_000


def arrow_bytes(*batches: Any, options: Any = None) -> bytes:
    """An Arrow IPC stream of the record batches."""
    written = io.BytesIO()
    with pa.ipc.new_stream(written, batches[0].schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return written.getvalue()


def header(**fields: Any) -> pb.ImportHeader:
    """A header for `ACCOUNT` and `INPUT`."""
    return pb.ImportHeader(**{"parent": ACCOUNT, "input": INPUT, **fields})


def requests(
    header_: pb.ImportHeader, stream: bytes, piece_bytes: int = PIECE_BYTES
) -> Iterator[pb.ImportEventsRequest]:
    """The header, then the stream in chunks at arbitrary boundaries."""
    yield pb.ImportEventsRequest(header=header_)
    for start in range(0, len(stream), piece_bytes):
        yield pb.ImportEventsRequest(arrow=stream[start : start + piece_bytes])


def refused(
    response: pb.ImportEventsResponse | pb.ImportUsersResponse,
) -> dict[tuple[str, str, str], Sequence[int]]:
    """(Reason, field, description) → rows."""
    return {(each.reason, each.field, each.description): list(each.rows) for each in response.refused}
