"""Sends events and user updates in concurrent batches, each repeated under its request id until it is
acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic

from milepost._batches import (
    Numbered,
    Progress,
    Row,
    Sent,
    batches,
    numbered,
    refused,
    with_last_marked,
)
from milepost._concurrency import AsyncCall, AsyncPool
from milepost.aio.retrying import with_retry
from milepost.errors import InvalidArgument
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import (
    IngestEventsRequest,
    IngestEventsResponse,
    UpsertUsersRequest,
    UpsertUsersResponse,
)


class AsyncSender(Generic[Row]):
    """Sends any number of rows; `send_batch` makes one call for one batch."""

    def __init__(self, send_batch: AsyncCall[Sent]) -> None:
        self._send_batch = send_batch

    async def __call__(
        self,
        rows: Iterable[Row],
        request_id: str,
        batch_rows: int,
        concurrency: int,
        progress: Progress | None,
    ) -> Sent:
        """Sends every batch, `concurrency` at a time; `progress` is called after each, by the caller.

        The last batch is sent alone after all others, so that its revision covers them. The first permanent
        error is raised once the requests in flight have ended; remaining batches are not sent.
        """
        total = Sent()

        def collect(results: list[Sent]) -> None:
            for sent in results:
                total.add(sent)
                if progress is not None:
                    progress(total)

        cut = numbered(batches(rows, batch_rows), request_id)
        async with AsyncPool[Sent](concurrency) as pool:
            for batch, is_last in with_last_marked(cut):
                if is_last:
                    collect(await pool.rest())
                    # Nothing runs beside it, so few rows, which are one batch, need no thread.
                    collect([await self._send(batch)])
                else:
                    if pool.is_full:
                        collect(await pool.first())
                    pool.start(self._send, batch)
        return total

    async def _send(self, batch: Numbered[Row]) -> Sent:
        try:
            return await with_retry(lambda: self._send_batch(batch), timeouts=True)
        except InvalidArgument as error:
            return refused(error, len(batch.rows), batch.first_index)


def events_sender(call: AsyncCall[IngestEventsResponse], parent: str, input: str) -> AsyncSender[Event]:
    """A sender through `IngestEvents`."""

    async def send_batch(batch: Numbered[Event]) -> Sent:
        response = await call(
            IngestEventsRequest(parent=parent, input=input, events=batch.rows, request_id=batch.request_id)
        )
        sent = Sent(accepted=response.accepted, duplicates=response.duplicates, revision=response.revision)
        return batch.result(sent, response.rejections)

    return AsyncSender(send_batch)


def users_sender(call: AsyncCall[UpsertUsersResponse], parent: str, input: str) -> AsyncSender[UserUpdate]:
    """A sender through `UpsertUsers`."""

    async def send_batch(batch: Numbered[UserUpdate]) -> Sent:
        response = await call(
            UpsertUsersRequest(parent=parent, input=input, users=batch.rows, request_id=batch.request_id)
        )
        sent = Sent(accepted=response.accepted, revision=response.revision)
        return batch.result(sent, response.rejections)

    return AsyncSender(send_batch)
