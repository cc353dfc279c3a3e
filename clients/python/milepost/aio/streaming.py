"""Streams events over one call, and goes on over another one when it breaks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from milepost._arguments import require_several
from milepost._batches import BATCH_ROWS_MAX, Numbered, Rejected, Sent, batches, refused
from milepost._concurrency import AsyncDuplex, async_sleep
from milepost._retrying import Backoff
from milepost.errors import InvalidArgument, MilepostError
from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import (
    IngestEventsRequest,
    IngestEventsResponse,
    Rejection,
    StreamEventsRequest,
    StreamEventsResponse,
)

STREAM_ATTEMPTS_MAX = 10
STREAM_IDLE = "STREAM_IDLE"
"""Reason with which a service ends a call that has been idle."""
UNACKNOWLEDGED_BATCHES_MAX = 8


@dataclass(frozen=True)
class _Pending:
    batch: Numbered[Event]
    request: StreamEventsRequest


class AsyncBatchStream:
    """Batches on their way: sent, kept until they are acknowledged, and sent again under their request ids
    when the call breaks, so each is applied once. For one thread or task at a time.
    """

    def __init__(
        self,
        open_call: Callable[..., Any],
        parent: str,
        input: str,
        request_id: str,
        *,
        first_sequence: int = 0,
        unacknowledged_max: int = UNACKNOWLEDGED_BATCHES_MAX,
    ) -> None:
        if unacknowledged_max < 1:
            raise ValueError(f"expected at least one unacknowledged batch, got {unacknowledged_max}")
        self._open_call = open_call
        self._parent = parent
        self._input = input
        self._request_id = request_id
        self._sequence = first_sequence
        self._rows = 0
        self._unacknowledged_max = unacknowledged_max
        self._pending: deque[_Pending] = deque()
        self._call: AsyncDuplex | None = None
        self._backoff = Backoff(STREAM_ATTEMPTS_MAX, timeouts=True)
        self._connect_at = 0.0
        self._sent = 0
        """Number of pending batches sent over this call."""
        self._is_trying = False
        """After a failure one batch is sent alone until it is acknowledged. That tells which batch ended a
        call, and spares a service that is coming back.
        """

    @property
    def unacknowledged(self) -> int:
        """Batches that were sent and are not acknowledged."""
        return len(self._pending)

    @property
    def is_full(self) -> bool:
        """Whether an acknowledgement must come before the next batch."""
        return len(self._pending) >= self._unacknowledged_max

    def submit(self, events: Sequence[Event]) -> None:
        """Sends a batch; does not wait. It is kept even when the connection is broken."""
        require_several(events=events)
        batch = Numbered(list(events), self._rows, f"{self._request_id}-{self._sequence}")
        request = StreamEventsRequest(
            sequence=self._sequence,
            batch=IngestEventsRequest(
                parent=self._parent, input=self._input, events=batch.rows, request_id=batch.request_id
            ),
        )
        self._sequence += 1
        self._rows += len(batch.rows)
        self._pending.append(_Pending(batch, request))
        if self._call is not None:
            self._fill(self._call)
        elif time.monotonic() >= self._connect_at:
            self._connect()

    async def acknowledgement(self) -> tuple[StreamEventsResponse, Sent]:
        """Waits for the acknowledgement of the oldest batch: as a message, and as a result with indexes among
        all events. Connects again, with growing pauses, while the service is out of reach. Raises any other
        error.
        """
        while True:
            if self._call is None:
                await async_sleep(max(0.0, self._connect_at - time.monotonic()))
            call = self._call or self._connect()
            try:
                return self._taken(await call.receive())
            except MilepostError as error:
                if (found := self._ended(error)) is not None:
                    return found

    def ready(self) -> tuple[StreamEventsResponse, Sent] | None:
        """The acknowledgement of the oldest batch if it has arrived. Neither waits nor connects."""
        if self._call is None or not self._pending:
            return None
        try:
            response = self._call.receive_ready()
        except MilepostError as error:
            return self._ended(error)
        return None if response is None else self._taken(response)

    def cancel(self) -> None:
        """Ends the call. What is not acknowledged may or may not be applied."""
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _connect(self) -> AsyncDuplex:
        self._call = AsyncDuplex(self._open_call)
        self._sent = 0
        self._fill(self._call)
        return self._call

    def _fill(self, call: AsyncDuplex) -> None:
        limit = 1 if self._is_trying else len(self._pending)
        while self._sent < min(limit, len(self._pending)):
            call.send(self._pending[self._sent].request)
            self._sent += 1

    def _taken(self, response: StreamEventsResponse) -> tuple[StreamEventsResponse, Sent]:
        self._backoff.succeeded()
        self._is_trying = False
        batch = self._pending.popleft().batch
        self._sent -= 1
        if self._call is not None:
            self._fill(self._call)
        result = response.result
        sent = Sent(accepted=result.accepted, duplicates=result.duplicates, revision=result.revision)
        return response, batch.result(sent, result.rejections)

    def _ended(self, error: MilepostError) -> tuple[StreamEventsResponse, Sent] | None:
        """What became of the oldest batch when the call ended by refusing all of it. None when another call
        may go on, after a pause. Raises any other error.
        """
        self.cancel()
        if error.reason == STREAM_IDLE:
            # Nothing is wrong: the next batch opens another call.
            return None
        self._is_trying = True
        if not isinstance(error, InvalidArgument) or not self._pending:
            self._connect_at = time.monotonic() + self._backoff.failed(error)
            return None
        oldest = self._pending[0]
        sent = refused(error, len(oldest.batch.rows), oldest.batch.first_index)
        self._pending.popleft()
        rejections = [_rejection(each, oldest.batch.first_index) for each in sent.rejections]
        answer = StreamEventsResponse(
            sequence=oldest.request.sequence, result=IngestEventsResponse(rejections=rejections)
        )
        return answer, sent


def _rejection(row: Rejected, first_index: int) -> Rejection:
    return Rejection(
        index=row.index - first_index, reason=row.reason, field=row.field, description=row.description
    )


class AsyncEventStream:
    """Sends events as they come, over one call.

    At most `unacknowledged_max` batches await their acknowledgement: `send` waits for the service rather than
    let them pile up. When the connection breaks, or the service restarts, batches without an acknowledgement
    are sent again under their request ids, so no event is lost or stored twice. Leaving the `with` flushes;
    after an exception it does not. For one thread or task at a time.
    """

    def __init__(self, stream: AsyncBatchStream, batch_rows: int = BATCH_ROWS_MAX) -> None:
        self._stream = stream
        self._batch_rows = batch_rows
        self._sent = Sent()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                await self.flush()
        finally:
            self._stream.cancel()

    @property
    def sent(self) -> Sent:
        """What has become of the events acknowledged so far."""
        return self._sent

    @property
    def unacknowledged(self) -> int:
        """Batches that were sent and are not acknowledged."""
        return self._stream.unacknowledged

    async def send(self, events: Iterable[Event]) -> None:
        """Sends events in batches below the service's limits; rejected ones are counted in `sent`. Does not
        wait for acknowledgements while there is room: `flush` does.
        """
        require_several(events=events)
        for batch in batches(events, self._batch_rows):
            while (ready := self._stream.ready()) is not None:
                self._sent.add(ready[1])
            while self._stream.is_full:
                await self._acknowledge()
            self._stream.submit(batch)

    async def flush(self) -> Sent:
        """Waits until every event is acknowledged, which means stored or rejected. The revision of the result
        covers them all.
        """
        while self._stream.unacknowledged:
            await self._acknowledge()
        return self._sent

    async def _acknowledge(self) -> None:
        _, sent = await self._stream.acknowledgement()
        self._sent.add(sent)
