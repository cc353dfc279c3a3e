"""ConnectionService: outputs and the connections of audiences to them."""

from __future__ import annotations

import grpc

from engine.resources.records import Connection
from engine.values import MICROS_PER_SECOND
from milepost.v1 import connection_pb2, connection_service_pb2_grpc
from milepost.v1 import connection_service_pb2 as pb
from service.convert import connections as convert
from service.convert.masks import CONNECTION_FIELDS, OUTPUT_FIELDS, masked_fields
from service.convert.times import duration_message, optional_instant
from service.handlers.runtime import Runtime


class ConnectionHandlers(connection_service_pb2_grpc.ConnectionServiceServicer):
    """See connection_service.proto."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._connections = runtime.engine.connections

    def _message(self, connection: Connection) -> connection_pb2.Connection:
        return convert.connection_message(connection, self._runtime.engine.deliveries.status(connection))

    def CreateOutput(
        self, request: pb.CreateOutputRequest, context: grpc.ServicerContext
    ) -> pb.CreateOutputResponse:
        record = convert.output_of_message(request.output)
        created = self._connections.create_output(
            request.parent, request.output_id, record, request.request_id
        )
        return pb.CreateOutputResponse(
            output=convert.output_message(created), revision=self._runtime.revision()
        )

    def GetOutput(self, request: pb.GetOutputRequest, context: grpc.ServicerContext) -> pb.GetOutputResponse:
        return pb.GetOutputResponse(output=convert.output_message(self._connections.get_output(request.name)))

    def ListOutputs(
        self, request: pb.ListOutputsRequest, context: grpc.ServicerContext
    ) -> pb.ListOutputsResponse:
        page = self._connections.list_outputs(
            request.parent, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListOutputsResponse(
            outputs=map(convert.output_message, page.items), next_page_token=page.next_page_token
        )

    def UpdateOutput(
        self, request: pb.UpdateOutputRequest, context: grpc.ServicerContext
    ) -> pb.UpdateOutputResponse:
        fields = masked_fields(request.output, request.update_mask, OUTPUT_FIELDS)
        record = convert.output_of_message(request.output, needs_kind="target" in fields)
        updated = self._connections.update_output(
            record, fields, request.output.etag, overlap=convert.secret_overlap(request)
        )
        return pb.UpdateOutputResponse(
            output=convert.output_message(updated), revision=self._runtime.revision()
        )

    def DeleteOutput(
        self, request: pb.DeleteOutputRequest, context: grpc.ServicerContext
    ) -> pb.DeleteOutputResponse:
        self._connections.delete_output(request.name, request.etag)
        return pb.DeleteOutputResponse(revision=self._runtime.revision())

    def TestOutput(
        self, request: pb.TestOutputRequest, context: grpc.ServicerContext
    ) -> pb.TestOutputResponse:
        report = self._runtime.output_tests.test(request.name, self._runtime.deadline(context))
        return pb.TestOutputResponse(
            delivered=not report.error,
            error=report.error,
            http_status=report.receipt.status,
            excerpt=report.receipt.excerpt,
            latency=duration_message(round(report.latency_s * MICROS_PER_SECOND)),
            event_id=report.event_id,
        )

    def CreateConnection(
        self, request: pb.CreateConnectionRequest, context: grpc.ServicerContext
    ) -> pb.CreateConnectionResponse:
        created = self._connections.create_connection(
            request.parent,
            request.connection_id,
            convert.connection_of_message(request.connection),
            request.request_id,
        )
        return pb.CreateConnectionResponse(
            connection=self._message(created), revision=self._runtime.revision()
        )

    def GetConnection(
        self, request: pb.GetConnectionRequest, context: grpc.ServicerContext
    ) -> pb.GetConnectionResponse:
        connection = self._connections.get_connection(request.name)
        return pb.GetConnectionResponse(connection=self._message(connection))

    def ListConnections(
        self, request: pb.ListConnectionsRequest, context: grpc.ServicerContext
    ) -> pb.ListConnectionsResponse:
        page = self._connections.list_connections(
            request.parent,
            page_size=request.page_size,
            page_token=request.page_token,
            audience=request.audience,
            output=request.output,
        )
        return pb.ListConnectionsResponse(
            connections=map(self._message, page.items), next_page_token=page.next_page_token
        )

    def UpdateConnection(
        self, request: pb.UpdateConnectionRequest, context: grpc.ServicerContext
    ) -> pb.UpdateConnectionResponse:
        fields = masked_fields(request.connection, request.update_mask, CONNECTION_FIELDS)
        record = convert.connection_of_message(request.connection)
        updated = self._connections.update_connection(record, fields, request.connection.etag)
        return pb.UpdateConnectionResponse(
            connection=self._message(updated), revision=self._runtime.revision()
        )

    def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, context: grpc.ServicerContext
    ) -> pb.DeleteConnectionResponse:
        self._connections.delete_connection(request.name, request.etag)
        return pb.DeleteConnectionResponse(revision=self._runtime.revision())

    def ActivateConnection(
        self, request: pb.ActivateConnectionRequest, context: grpc.ServicerContext
    ) -> pb.ActivateConnectionResponse:
        connection = self._connections.activate(request.name, request.etag)
        return pb.ActivateConnectionResponse(
            connection=self._message(connection), revision=self._runtime.revision()
        )

    def DeactivateConnection(
        self, request: pb.DeactivateConnectionRequest, context: grpc.ServicerContext
    ) -> pb.DeactivateConnectionResponse:
        connection = self._connections.deactivate(request.name, request.etag)
        return pb.DeactivateConnectionResponse(
            connection=self._message(connection), revision=self._runtime.revision()
        )

    def ResumeConnection(
        self, request: pb.ResumeConnectionRequest, context: grpc.ServicerContext
    ) -> pb.ResumeConnectionResponse:
        connection = self._connections.resume(request.name, request.etag)
        return pb.ResumeConnectionResponse(
            connection=self._message(connection), revision=self._runtime.revision()
        )

    def PauseConnection(
        self, request: pb.PauseConnectionRequest, context: grpc.ServicerContext
    ) -> pb.PauseConnectionResponse:
        connection = self._connections.pause(request.name, request.etag)
        return pb.PauseConnectionResponse(
            connection=self._message(connection), revision=self._runtime.revision()
        )

    def ReplayConnection(
        self, request: pb.ReplayConnectionRequest, context: grpc.ServicerContext
    ) -> pb.ReplayConnectionResponse:
        since = optional_instant(request, "start_time")
        connection = self._connections.replay(request.name, since, request.etag)
        return pb.ReplayConnectionResponse(
            connection=self._message(connection), revision=self._runtime.revision()
        )

    def AcknowledgeChanges(
        self, request: pb.AcknowledgeChangesRequest, context: grpc.ServicerContext
    ) -> pb.AcknowledgeChangesResponse:
        connection = self._connections.acknowledge(
            request.name, request.cursor, request.epoch, request.activation
        )
        return pb.AcknowledgeChangesResponse(connection=self._message(connection))
