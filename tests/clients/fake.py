"""A gRPC server in this process whose methods are test functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from milepost.v1 import (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)

FILES: tuple[FileDescriptor, ...] = (
    account_service_pb2.DESCRIPTOR,
    admin_service_pb2.DESCRIPTOR,
    audience_service_pb2.DESCRIPTOR,
    catalog_service_pb2.DESCRIPTOR,
    connection_service_pb2.DESCRIPTOR,
    ingest_service_pb2.DESCRIPTOR,
    journey_service_pb2.DESCRIPTOR,
)

Answer = Callable[[Any], Any]
"""Maps a request, or an iterator of them, to a response, or to an iterable of responses for a stream. May
raise `Refusal`.
"""


class Refusal(Exception):
    """Ends the call with a status, and with details when a reason is given."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[tuple[str, ...]] = (),
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details: list[Any] = []
        if reason:
            info = error_details_pb2.ErrorInfo(reason=reason, domain="milepost", metadata=metadata)
            self.details.append(info)
        if violations:
            fields = [
                error_details_pb2.BadRequest.FieldViolation(
                    field=each[0], description=each[1], reason="".join(each[2:])
                )
                for each in violations
            ]
            self.details.append(error_details_pb2.BadRequest(field_violations=fields))
        if retry_after_ms:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromMilliseconds(retry_after_ms)
            self.details.append(retry)

    def abort(self, context: grpc.ServicerContext) -> None:
        packed = []
        for detail in self.details:
            wrapped = any_pb2.Any()
            wrapped.Pack(detail)
            packed.append(wrapped)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        context.abort_with_status(rpc_status.to_status(status))


def methods() -> Iterator[MethodDescriptor]:
    """Every method of the contract."""
    for file in FILES:
        for service in file.services_by_name.values():
            yield from service.methods


class Fake(grpc.GenericRpcHandler):
    """Serves the methods in `answers`, by their short names; records every request and its metadata."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = dict(answers)
        self.requests: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self._methods = {
            f"/{method.containing_service.full_name}/{method.name}": method for method in methods()
        }

    def of(self, method: str) -> list[Any]:
        """The requests to one method, in order of arrival."""
        return [request for name, request in self.requests if name == method]

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        method = self._methods.get(handler_call_details.method)
        if method is None or method.name not in self.answers:
            return None
        self.metadata.append(dict(handler_call_details.invocation_metadata))
        deserialise = message_factory.GetMessageClass(method.input_type).FromString
        if method.client_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._both(method.name), deserialise, lambda response: response.SerializeToString()
            )
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._many(method.name), deserialise, lambda response: response.SerializeToString()
            )
        return grpc.unary_unary_rpc_method_handler(
            self._one(method.name), deserialise, lambda response: response.SerializeToString()
        )

    def _one(self, name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.requests.append((name, request))
            try:
                return self.answers[name](request)
            except Refusal as refusal:
                return refusal.abort(context)

        return handle

    def _many(self, name: str) -> Callable[[Any, grpc.ServicerContext], Iterable[Any]]:
        def handle(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            self.requests.append((name, request))
            try:
                yield from self.answers[name](request)
            except Refusal as refusal:
                refusal.abort(context)

        return handle

    def _both(self, name: str) -> Callable[[Iterator[Any], grpc.ServicerContext], Iterable[Any]]:
        def handle(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            try:
                yield from self.answers[name](self._recorded(name, requests))
            except Refusal as refusal:
                refusal.abort(context)

        return handle

    def _recorded(self, name: str, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self.requests.append((name, request))
            yield request


@contextmanager
def serving(fake: Fake) -> Iterator[str]:
    """The address of a server with these methods, for the length of the block."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((fake,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
