# Generated from milepost/aio/ingest.py: edit that file, then run `make client`.
"""Methods of IngestService: events, users, imports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from milepost._arguments import require_several
from milepost._batches import BATCH_ROWS_MAX, Progress, Sent
from milepost._concurrency import Items, iterate
from milepost._importing import IMPORT_TIMEOUT_SECONDS, Imported, RowsSent
from milepost._retrying import new_request_id
from milepost.client.base import ClientBase
from milepost.client.importing import send_import
from milepost.client.sending import events_sender, users_sender
from milepost.client.streaming import UNACKNOWLEDGED_BATCHES_MAX, BatchStream, EventStream
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.v1.ingest_service_pb2 import (
    AliasUserRequest,
    DeleteUsersRequest,
    DeleteUsersResponse,
    ImportHeader,
    ImportUsersHeader,
    StreamEventsResponse,
)

SEND_CONCURRENCY = 4


class IngestMethods(ClientBase):
    """Writes events and users."""

    def ingest_events(
        self,
        events: Iterable[Event],
        *,
        input: str = "",
        request_id: str = "",
        batch_rows: int = BATCH_ROWS_MAX,
        concurrency: int = SEND_CONCURRENCY,
        progress: Progress | None = None,
    ) -> Sent:
        """Sends events in batches below the service's limits. `input` ("workspace/input") applies to
        events without one.

        Each batch has a request id made of `request_id` and its number, and is retried under it while the
        service is unavailable, so it is applied once. Pass your own `request_id` to repeat a whole import
        after a crash. Rejected events are in the result; any other error is raised.
        """
        require_several(events=events)
        send = events_sender(self.ingest.IngestEvents, self.account_name, self._input_name(input))
        return send(events, request_id or new_request_id(), batch_rows, concurrency, progress)

    def stream_events(
        self,
        batches: Items[Sequence[Event]],
        *,
        input: str = "",
        request_id: str = "",
        first_sequence: int = 0,
        unacknowledged_max: int = UNACKNOWLEDGED_BATCHES_MAX,
    ) -> Iterator[StreamEventsResponse]:
        """Sends batches over one call for as long as there are any, and yields the acknowledgement of each,
        in order. A batch has at most 10,000 events and 4 MiB; `unacknowledged_max` of them may be on their
        way. Rejected events are in the acknowledgements. `event_stream` is for events that come one by one.

        `sequence` of an acknowledgement is the number of its batch. While the service is out of reach,
        batches that were not acknowledged are sent again, and applied once. After any other error, send them
        again with the same `request_id`, the first of them as `first_sequence`.
        """
        require_several(batches=batches)
        stream = self._batch_stream(input, request_id, first_sequence, unacknowledged_max)
        try:
            for batch in iterate(batches):
                while (ready := stream.ready()) is not None:
                    yield ready[0]
                while stream.is_full:
                    yield stream.acknowledgement()[0]
                stream.submit(batch)
            while stream.unacknowledged:
                yield stream.acknowledgement()[0]
        finally:
            stream.cancel()

    def event_stream(
        self,
        *,
        input: str = "",
        request_id: str = "",
        unacknowledged_max: int = UNACKNOWLEDGED_BATCHES_MAX,
        batch_rows: int = BATCH_ROWS_MAX,
    ) -> EventStream:
        """A stream to send events through as they come, to be used in a `with`. It waits while
        `unacknowledged_max` batches are on their way, and survives broken connections and restarts of the
        service: see what it returns. `input` ("workspace/input") applies to events without one.
        """
        return EventStream(self._batch_stream(input, request_id, 0, unacknowledged_max), batch_rows)

    def _batch_stream(
        self, input: str, request_id: str, first_sequence: int, unacknowledged_max: int
    ) -> BatchStream:
        return BatchStream(
            self.ingest.StreamEvents,
            self.account_name,
            self._input_name(input),
            request_id or new_request_id(),
            first_sequence=first_sequence,
            unacknowledged_max=unacknowledged_max,
        )

    def upsert_users(
        self,
        users: Iterable[UserUpdate],
        *,
        input: str = "",
        request_id: str = "",
        batch_rows: int = BATCH_ROWS_MAX,
        concurrency: int = SEND_CONCURRENCY,
        progress: Progress | None = None,
    ) -> Sent:
        """Creates users or updates their data, in batches as in `ingest_events`."""
        require_several(users=users)
        send = users_sender(self.ingest.UpsertUsers, self.account_name, self._input_name(input))
        return send(users, request_id or new_request_id(), batch_rows, concurrency, progress)

    def import_events(
        self,
        batches: Iterable[Any],
        *,
        input: str = "",
        columns: ImportHeader | None = None,
        request_id: str = "",
        timeout: float = IMPORT_TIMEOUT_SECONDS,
        rows_sent: RowsSent | None = None,
    ) -> Imported:
        """Sends events as pyarrow record batches of one schema, in one call; `input` applies to rows
        without one ("workspace/input"), `columns` describes the columns (see `ImportHeader`).

        With a `request_id`, sequences of batches are retried while the service is unavailable, and applied
        once. Rejected rows are in the result; any other error is raised. At least one batch is needed, which
        may be empty.
        """
        require_several(batches=batches)
        header = ImportHeader()
        if columns is not None:
            header.CopyFrom(columns)
        header.parent = self.account_name
        header.input = self._input_name(input) or header.input
        header.request_id = request_id or header.request_id
        return send_import(self.ingest.ImportEvents, header, batches, timeout, rows_sent)

    def import_users(
        self,
        batches: Iterable[Any],
        *,
        input: str = "",
        columns: ImportUsersHeader | None = None,
        request_id: str = "",
        timeout: float = IMPORT_TIMEOUT_SECONDS,
        rows_sent: RowsSent | None = None,
    ) -> Imported:
        """Sends user updates as pyarrow record batches of one schema, in one call: each row creates or
        updates a user. `columns` names the columns that are identities and consents (see
        `ImportUsersHeader`); the others are attributes. Everything else is as in `import_events`.
        """
        require_several(batches=batches)
        header = ImportUsersHeader()
        if columns is not None:
            header.CopyFrom(columns)
        header.parent = self.account_name
        header.input = self._input_name(input) or header.input
        header.request_id = request_id or header.request_id
        return send_import(self.ingest.ImportUsers, header, batches, timeout, rows_sent)

    def alias_user(self, from_user_id: str, to_user_id: str) -> str:
        """Merges a user into another, as if all its data had always been sent as the other's, and returns the
        revision. Raises FailedPrecondition when the alias makes a cycle or exists already.
        """
        request = AliasUserRequest(parent=self.account_name, from_user_id=from_user_id, to_user_id=to_user_id)
        return self.ingest.AliasUser(request).revision

    def delete_users(self, user_ids: Iterable[str]) -> DeleteUsersResponse:
        """Erases users, at most 10,000: profiles, events and memberships. `deleted` counts those that
        existed. Outputs get their exits, with the id only.
        """
        require_several(user_ids=user_ids)
        request = DeleteUsersRequest(parent=self.account_name, user_ids=user_ids)
        return self.ingest.DeleteUsers(request)

    def _input_name(self, input: str) -> str:
        return self.input_name(input) if input else ""
