"""Which calls a reader answers and which it hands on, and in which threads.

Calls that are handed on keep a thread each while the writer works. The writer has the closer limits, and
names the one that a call exceeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import grpc
import structlog
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from grpc_health.v1 import health_pb2

from engine.errors import LimitExceeded, MilepostError, StoreUnavailable
from milepost.v1 import (
    account_service_pb2,
    admin_service_pb2,
    audience_service_pb2,
    catalog_service_pb2,
    connection_service_pb2,
    ingest_service_pb2,
    journey_service_pb2,
)
from service.config import Config
from service.deaf_callers import DeafCallers
from service.errors import abort
from service.first_message import FirstMessages, NoMessages
from service.health import LISTS, Health
from service.limits import MESSAGE_S_MAX, PROBES_MAX, READER_THREADS
from service.methods import HEALTH_PREFIX, REFLECTION_METHODS, is_health
from service.pools import PROBE_THREADS, REFUSAL_THREADS
from service.readers.answers import Answer, Answers, StreamAnswer
from service.readers.forwarding import Forwarder, was_refused
from service.readers.keys import ReaderKeys
from service.reading import RequestReader, checked
from service.slots import Holder
from service.stopping import Stopping
from service.workers import Workers

CONTRACT_FILES: tuple[FileDescriptor, ...] = (
    account_service_pb2.DESCRIPTOR,
    admin_service_pb2.DESCRIPTOR,
    audience_service_pb2.DESCRIPTOR,
    catalog_service_pb2.DESCRIPTOR,
    connection_service_pb2.DESCRIPTOR,
    ingest_service_pb2.DESCRIPTOR,
    journey_service_pb2.DESCRIPTOR,
)

_logger = structlog.get_logger("milepost.reader")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[..., Any]


class ReaderPools:
    """The threads of a reader by kind of call."""

    def __init__(self, config: Config) -> None:
        streams_max = sum(
            (
                config.streams_max,
                config.imports_max,
                config.exports_max,
                config.watchers_max,
                config.jobs_max,
                PROBES_MAX,
            )
        )
        self.first_messages = first = FirstMessages(min(config.stream_idle_s, MESSAGE_S_MAX))
        self.checks = Workers("check", READER_THREADS, config.in_flight_max, first)
        self.reads = Workers("read", READER_THREADS, config.in_flight_max, first)
        self.unary = Workers("unary", READER_THREADS, config.in_flight_max, first)
        self.streams = Workers("stream", streams_max, streams_max, first)
        self.probes = Workers("probe", PROBE_THREADS, PROBES_MAX, first)
        self.refusals = Workers("refusal", REFUSAL_THREADS, config.in_flight_max, NoMessages())

    @property
    def in_flight(self) -> int:
        """Number of calls running or queued, without health checks."""
        return sum(pool.in_flight for pool in (self.checks, self.reads, self.unary, self.streams))

    def shutdown(self) -> None:
        """Stops the threads after their current calls."""
        self.first_messages.stop()
        for pool in (self.checks, self.reads, self.unary, self.streams, self.probes, self.refusals):
            pool.shutdown()


class Route(NamedTuple):
    """How calls of a method are handled: by which handler, and the pool that says whether one is admitted."""

    handler: Handler
    pool: Workers
    stops: bool
    """Whether calls are refused once the reader is stopping."""


class Routes(grpc.ServerInterceptor):
    """The handlers of a reader. gRPC asks `intercept_service` for one with each call.

    `register` tells gRPC the methods. Each then has a queue of its own in gRPC, so that many calls of one do
    not keep those of another waiting.
    """

    def __init__(
        self,
        pools: ReaderPools,
        keys: ReaderKeys,
        forwarder: Forwarder,
        answers: Answers,
        health: Health,
        stopping: Stopping,
        reader: RequestReader,
        deaf_callers: DeafCallers,
    ) -> None:
        self._deaf_callers = deaf_callers
        self._pools = pools
        self._keys = keys
        self._forwarder = forwarder
        self._stopping = stopping
        self._routes = {
            **_health_routes(health, pools.probes, reader),
            **{_path(method): self._forwarded(method) for method in contract_methods()},
            **{method: self._stream(method) for method in REFLECTION_METHODS},
            **{
                method: self._answered(method, answer, pool)
                for pool, answered in ((pools.checks, answers.checks), (pools.reads, answers.reads))
                for method, answer in answered.items()
            },
            **{method: self._streamed(method, answer, answers) for method, answer in answers.streams.items()},
        }

    def register(self, server: grpc.Server) -> None:
        """Tells a server the methods."""
        services: dict[str, dict[str, Handler]] = {}
        for path, route in self._routes.items():
            service, _, method = path.removeprefix("/").partition("/")
            services.setdefault(service, {})[method] = route.handler
        for service, handlers in services.items():
            server.add_registered_method_handlers(service, handlers)

    def intercept_service(
        self, _continuation: object, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler:
        """The handler of a call, or one that refuses it."""
        method = handler_call_details.method
        # A method that is not known here may be known to the writer, which says so otherwise.
        handler, pool, stops = self._routes.get(method) or self._stream(method)
        holder = self._holder_of(method, handler_call_details)
        if stops and self._stopping.is_set():
            return self._refusal(handler, StoreUnavailable("the service is stopping; try again"))
        try:
            pool.refuse_if_full(holder)
        except LimitExceeded as error:
            return self._refusal(handler, error)
        return handler

    def _holder_of(self, method: str, details: grpc.HandlerCallDetails) -> Holder | None:
        """Whose slots a call takes here."""
        if is_health(method):
            return None
        try:
            return self._keys.recognise(method, details.invocation_metadata)
        except Exception:
            # A defect here is no reason for the caller to go without an answer. The writer has shares too.
            _logger.exception("call without a share after a defect", method=method)
            return None

    def _answered(self, method: str, answer: Answer, pool: Workers) -> Route:
        """A route of a method that this reader answers, for the most part. Its calls have threads of their
        own: none waits behind calls that only the writer answers.
        """
        behaviour = _in(pool, _telling_defects(answer(self._forwarder.unary(method))))
        return Route(grpc.unary_unary_rpc_method_handler(behaviour), pool, stops=True)

    def _streamed(self, method: str, answer: StreamAnswer, answers: Answers) -> Route:
        """As `_answered`, of a method with a stream of answers."""
        behaviour = answer(self._forwarder.stream(method))

        def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            began = time.perf_counter()
            try:
                yield from self._deaf_callers.sent(behaviour(request, context), method, context)
            except Exception as error:
                if was_refused(context) or not context.is_active():
                    raise
                answers.failed(method, context, time.perf_counter() - began, error)
                abort(context, error, retry_in_s=self._retry_in_s)

        pool = self._pools.streams
        return Route(grpc.unary_stream_rpc_method_handler(_in(pool, stream)), pool, stops=True)

    @property
    def _retry_in_s(self) -> float | None:
        """How long callers are asked to wait: while the reader stops until another serves."""
        return self._stopping.retry_in_s if self._stopping.is_set() else None

    def _forwarded(self, method: MethodDescriptor) -> Route:
        if method.client_streaming or method.server_streaming:
            return self._stream(_path(method))
        forward = _in(self._pools.unary, _telling_defects(self._forwarder.unary(_path(method))))
        return Route(grpc.unary_unary_rpc_method_handler(forward), self._pools.unary, stops=True)

    def _stream(self, method: str) -> Route:
        """A route that fits a method of any form."""
        forward = _in(self._pools.streams, self._forwarder.stream(method))
        return Route(grpc.stream_stream_rpc_method_handler(forward), self._pools.streams, stops=True)

    def _refusal(self, handler: Handler, error: MilepostError) -> Handler:
        def refuse(_request: object, context: grpc.ServicerContext) -> Any:
            abort(context, error, retry_in_s=self._retry_in_s)

        form = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        return form(_in(self._pools.refusals, refuse))


def contract_methods() -> list[MethodDescriptor]:
    """Every method of the contract."""
    return [
        method
        for file in CONTRACT_FILES
        for service in file.services_by_name.values()
        for method in service.methods
    ]


def _path(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def _health_routes(health: Health, pool: Workers, reader: RequestReader) -> dict[str, Route]:
    check = _in(pool, _answering_errors(health.Check))
    watch = _in(pool, _answering_errors(health.Watch))
    vars(watch)["experimental_non_blocking"] = True
    listed = _in(pool, _answering_errors(health.List))
    one, many = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    forms = {
        "Check": (one, check, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
        "List": (one, listed, LISTS.HealthListRequest, LISTS.HealthListResponse),
        "Watch": (many, watch, health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse),
    }
    return {
        HEALTH_PREFIX + name: Route(
            form(
                behaviour,
                request_deserializer=reader.of(HEALTH_PREFIX + name, request.FromString),
                response_serializer=response.SerializeToString,
            ),
            pool,
            stops=False,
        )
        for name, (form, behaviour, request, response) in forms.items()
    }


def _answering_errors(behaviour: Behaviour) -> Behaviour:
    def call(request: Any, context: grpc.ServicerContext, *send: Any) -> Any:
        try:
            return behaviour(checked(request), context, *send)
        except MilepostError as error:
            abort(context, error)

    return call


def _telling_defects(behaviour: Behaviour) -> Behaviour:
    """Answers an exception that is no refusal as the defect that it is."""

    def call(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(request, context)
        except Exception as error:
            if was_refused(context):
                raise
            abort(context, error)

    return call


def _in(pool: Workers, behaviour: Behaviour) -> Behaviour:
    """The behaviour, to run in a thread of the pool: gRPC reads that from an attribute."""
    vars(behaviour)["experimental_thread_pool"] = pool
    return behaviour
