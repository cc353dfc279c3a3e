"""IngestService: writes of events and users."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from engine.errors import DeadlineExceeded, InvalidInput, StoreUnavailable, Unsupported
from milepost.v1 import ingest_service_pb2 as pb
from milepost.v1 import ingest_service_pb2_grpc
from service.convert.data import event_records, rejection_messages, user_records
from service.convert.event_columns import BY_COLUMN_EVENTS_MIN, event_columns
from service.handlers.runtime import Runtime

if TYPE_CHECKING:
    from service.arrow.importing import Importing


class IngestHandlers(ingest_service_pb2_grpc.IngestServiceServicer):
    """See ingest_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ingest = runtime.engine.ingest
        self._limits = runtime.engine.limits

    def IngestEvents(
        self, request: pb.IngestEventsRequest, context: grpc.ServicerContext
    ) -> pb.IngestEventsResponse:
        return self._events(request)

    def StreamEvents(
        self, request_iterator: Iterator[pb.StreamEventsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.StreamEventsResponse]:
        for request in request_iterator:
            try:
                result = self._events(request.batch)
            except InvalidInput as error:
                raise error.below("batch") from None
            yield pb.StreamEventsResponse(sequence=request.sequence, result=result)

    def _events(self, request: pb.IngestEventsRequest) -> pb.IngestEventsResponse:
        parent, events, request_id = request.parent, request.events, request.request_id
        if len(events) < BY_COLUMN_EVENTS_MIN:
            ingested = self._ingest.events(
                parent, event_records(events, request.input, self._limits), request_id
            )
        else:
            batch = event_columns(events, request.input, self._limits)
            ingested = self._ingest.event_columns(parent, batch, request_id)
        return pb.IngestEventsResponse(
            revision=self._runtime.token(ingested.revision),
            accepted=ingested.accepted,
            duplicates=ingested.duplicates,
            rejections=rejection_messages(ingested.rejections),
        )

    def ImportEvents(
        self, request_iterator: Iterator[pb.ImportEventsRequest], context: grpc.ServicerContext
    ) -> pb.ImportEventsResponse:
        return self._importing(context).events(request_iterator)

    def ImportUsers(
        self, request_iterator: Iterator[pb.ImportUsersRequest], context: grpc.ServicerContext
    ) -> pb.ImportUsersResponse:
        return self._importing(context).users(request_iterator)

    def _importing(self, context: grpc.ServicerContext) -> Importing:
        try:
            from service.arrow.importing import Importing
        except ModuleNotFoundError as error:
            raise Unsupported(
                "imports need pyarrow on the server: install milepost-server[import]"
            ) from error

        def may_go_on() -> None:
            if self._runtime.stopping.is_set():
                raise StoreUnavailable("the service is stopping")
            if not context.is_active():
                raise DeadlineExceeded("the caller disconnected")

        return Importing(
            engine=self._runtime.engine,
            token=self._runtime.token,
            batch_bytes_max=self._runtime.import_batch_bytes_max,
            may_go_on=may_go_on,
        )

    def UpsertUsers(
        self, request: pb.UpsertUsersRequest, context: grpc.ServicerContext
    ) -> pb.UpsertUsersResponse:
        rows = user_records(request.users, request.input, self._runtime.engine.clock(), self._limits)
        ingested = self._ingest.users(request.parent, rows, request.request_id)
        return pb.UpsertUsersResponse(
            revision=self._runtime.token(ingested.revision),
            accepted=ingested.accepted,
            rejections=rejection_messages(ingested.rejections),
        )

    def AliasUser(self, request: pb.AliasUserRequest, context: grpc.ServicerContext) -> pb.AliasUserResponse:
        revision = self._ingest.alias(request.parent, request.from_user_id, request.to_user_id)
        return pb.AliasUserResponse(revision=self._runtime.token(revision))

    def DeleteUsers(
        self, request: pb.DeleteUsersRequest, context: grpc.ServicerContext
    ) -> pb.DeleteUsersResponse:
        erased = self._ingest.erase(request.parent, tuple(request.user_ids))
        return pb.DeleteUsersResponse(revision=self._runtime.token(erased.revision), deleted=erased.accepted)
