"""What a batch of events and one of user updates are sent with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic

from milepost._batches import (
    Progress,
    Rejected,
    Row,
    Sent,
    batches,
    refused,
    send_all,
    with_retry,
)
from milepost.errors import InvalidArgument
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import (
    IngestEventsRequest,
    IngestEventsResponse,
    Rejection,
    UpsertUsersRequest,
    UpsertUsersResponse,
)


@dataclass(frozen=True)
class _Numbered(Generic[Row]):
    rows: list[Row]
    first_index: int
    request_id: str


class Sender(Generic[Row]):
    """Sends any number of rows; `send_batch` makes one call for one batch."""

    def __init__(self, send_batch: Callable[[list[Row], str], tuple[Sent, Iterable[Rejection]]]) -> None:
        self._send_batch = send_batch

    def __call__(
        self,
        rows: Iterable[Row],
        request_id: str,
        batch_rows: int,
        concurrency: int,
        progress: Progress | None,
    ) -> Sent:
        numbered = self._numbered(batches(rows, batch_rows), request_id)
        return send_all(numbered, self._send, concurrency=concurrency, progress=progress)

    def _numbered(self, cut: Iterable[list[Row]], request_id: str) -> Iterator[_Numbered[Row]]:
        first_index = 0
        for number, rows in enumerate(cut):
            yield _Numbered(rows, first_index, f"{request_id}-{number}")
            first_index += len(rows)

    def _send(self, batch: _Numbered[Row]) -> Sent:
        return with_retry(lambda: self._send_once(batch))

    def _send_once(self, batch: _Numbered[Row]) -> Sent:
        try:
            sent, rejections = self._send_batch(batch.rows, batch.request_id)
        except InvalidArgument as error:
            return refused(error, len(batch.rows), batch.first_index)
        sent.rejections = [
            Rejected(batch.first_index + each.index, each.reason, each.field, each.description)
            for each in rejections
        ]
        sent.rejected = len(sent.rejections)
        return sent


def events_sender(
    call: Callable[[IngestEventsRequest], IngestEventsResponse], parent: str, input: str
) -> Sender[Event]:
    """A sender through `IngestEvents`."""

    def send_batch(rows: list[Event], request_id: str) -> tuple[Sent, Iterable[Rejection]]:
        request = IngestEventsRequest(parent=parent, input=input, events=rows, request_id=request_id)
        response = call(request)
        sent = Sent(accepted=response.accepted, duplicates=response.duplicates, revision=response.revision)
        return sent, response.rejections

    return Sender(send_batch)


def users_sender(
    call: Callable[[UpsertUsersRequest], UpsertUsersResponse], parent: str, input: str
) -> Sender[UserUpdate]:
    """A sender through `UpsertUsers`."""

    def send_batch(rows: list[UserUpdate], request_id: str) -> tuple[Sent, Iterable[Rejection]]:
        request = UpsertUsersRequest(parent=parent, input=input, users=rows, request_id=request_id)
        response = call(request)
        return Sent(accepted=response.accepted, revision=response.revision), response.rejections

    return Sender(send_batch)
