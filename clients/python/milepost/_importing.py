"""Requests and results of imports. Imports the optional pyarrow when called."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from milepost.v1.ingest_service_pb2 import (
    ImportEventsRequest,
    ImportEventsResponse,
    ImportHeader,
    ImportUsersHeader,
    ImportUsersRequest,
    ImportUsersResponse,
)

PIECE_BYTES = 1024 * 1024
"""Bytes of the stream in one message; below what a service takes by default."""
IMPORT_TIMEOUT_SECONDS = 600.0

RowsSent = Callable[[int], None]
"""Called with the number of rows that went out in a record batch, from a thread of the transport."""


Header = ImportHeader | ImportUsersHeader
Request = ImportEventsRequest | ImportUsersRequest
Response = ImportEventsResponse | ImportUsersResponse


@dataclass(frozen=True)
class RefusedRows:
    """Rows rejected for one reason: their indexes in the stream, from 0, ascending."""

    reason: str
    field: str
    description: str
    rows: Sequence[int]


@dataclass
class Imported:
    """What became of an import. `refused` names the refused rows, up to 1,048,576 of them; `rejected` counts
    all.
    """

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    revision: str = ""
    refused: list[RefusedRows] = field(default_factory=list)


class ImportRequests:
    """The requests of one call; `failure` is what the batches raised."""

    def __init__(self, header: Header, batches: Iterable[Any], rows_sent: RowsSent | None) -> None:
        self._header = header
        self._batches = batches
        self._rows_sent = rows_sent
        self.failure: Exception | None = None

    def __iter__(self) -> Iterator[Request]:
        request: type[Request]
        if isinstance(self._header, ImportHeader):
            request = ImportEventsRequest
            yield ImportEventsRequest(header=self._header)
        else:
            request = ImportUsersRequest
            yield ImportUsersRequest(header=self._header)
        try:
            for piece in _pieces(self._batches, self._rows_sent):
                yield request(arrow=piece)
        except Exception as error:
            self.failure = error
            raise


def _pieces(batches: Iterable[Any], rows_sent: RowsSent | None) -> Iterator[bytes]:
    """The Arrow IPC stream, in pieces; nothing when there are no batches."""
    import pyarrow as pa

    written = io.BytesIO()
    writer = None
    for batch in batches:
        writer = writer or pa.ipc.new_stream(written, batch.schema)
        writer.write_batch(batch)
        yield from _cut(written)
        if rows_sent is not None:
            rows_sent(batch.num_rows)
    if writer is not None:
        writer.close()
        yield from _cut(written)


def _cut(written: io.BytesIO) -> Iterator[bytes]:
    whole = written.getbuffer()
    for start in range(0, len(whole), PIECE_BYTES):
        yield bytes(whole[start : start + PIECE_BYTES])
    whole.release()
    written.seek(0)
    written.truncate()


def imported(response: Response) -> Imported:
    """The result in an answer."""
    return Imported(
        accepted=response.accepted,
        duplicates=response.duplicates if isinstance(response, ImportEventsResponse) else 0,
        rejected=response.rejected,
        revision=response.revision,
        refused=[
            RefusedRows(each.reason, each.field, each.description, each.rows) for each in response.refused
        ],
    )
