"""Wraps every call: admission, size limits, errors and the access log.

One interceptor wraps each method once and keeps the wrapped handler. A wrapped call is admitted or refused
before it takes a thread, its message is measured before it is parsed, and whatever it raises is given its
canonical code. Streams run in pools of their own, so that watchers can never take the threads of other calls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from engine.errors import (
    InvalidInput,
    LimitExceeded,
    MilepostError,
    StoreUnavailable,
    Unsupported,
    Violation,
)
from service.errors import abort, code_of
from service.not_built import METHODS_NOT_BUILT
from service.prefetch import Prefetch

OWN_PREFIX = "/milepost.v1."
HEALTH_PREFIX = "/grpc.health.v1.Health/"
WATCH_METHOD = "/milepost.v1.AudienceService/WatchMembership"
IMPORT_METHODS = ("/milepost.v1.IngestService/ImportEvents", "/milepost.v1.IngestService/ImportUsers")
INGEST_METHODS = {
    "/milepost.v1.IngestService/IngestEvents": "events",
    "/milepost.v1.IngestService/StreamEvents": "batch.events",
    "/milepost.v1.IngestService/UpsertUsers": "users",
    **dict.fromkeys(IMPORT_METHODS, "arrow"),
}
"""Methods that take batches, and the field that makes them large."""

REQUESTS_AHEAD = 1
"""Requests of a stream that wait to be handled; one more may wait for its place."""

AccessLog = Literal["all", "problems", "none"]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_logger = structlog.get_logger("milepost.access")


class Workers(ThreadPoolExecutor):
    """A thread pool that counts and limits its calls, running and queued."""

    def __init__(self, name: str, threads: int, in_flight_max: int) -> None:
        super().__init__(max_workers=threads, thread_name_prefix=name)
        self.name = name
        self.in_flight_max = in_flight_max
        self._in_flight = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Number of calls running or queued."""
        return self._in_flight

    @property
    def full(self) -> bool:
        """Whether the limit of calls is reached."""
        return self._in_flight >= self.in_flight_max

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Runs `fn` in the pool and counts it until it ends."""
        with self._lock:
            self._in_flight += 1
        try:
            future = super().submit(fn, *args, **kwargs)
        except RuntimeError:
            self._done()
            raise
        future.add_done_callback(lambda _: self._done())
        return future

    def _done(self) -> None:
        with self._lock:
            self._in_flight -= 1


@dataclass(frozen=True, slots=True)
class Pools:
    """Threads by kind of call. `refusals` answers calls that are not admitted: they need no worker."""

    unary: Workers
    streams: Workers
    imports: Workers
    watchers: Workers
    refusals: Workers

    @property
    def in_flight(self) -> int:
        """Number of calls of all kinds running or queued."""
        return sum(pool.in_flight for pool in self._all)

    def shutdown(self) -> None:
        """Lets the threads end after their calls."""
        for pool in self._all:
            pool.shutdown(wait=False, cancel_futures=True)

    @property
    def _all(self) -> tuple[Workers, ...]:
        return self.unary, self.streams, self.imports, self.watchers, self.refusals


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a message that was not parsed. Its error is raised when the call runs."""

    error: MilepostError


class CallInterceptor(grpc.ServerInterceptor):
    """Applies admission, size limits, errors and the access log to every method."""

    def __init__(
        self,
        pools: Pools,
        *,
        message_bytes_max: int,
        access_log: AccessLog,
        slow_call_ms: int,
        stopping: threading.Event,
    ) -> None:
        self._pools = pools
        self._message_bytes_max = message_bytes_max
        self._access_log = access_log
        self._slow_call_s = slow_call_ms / 1_000
        self._stopping = stopping
        self._wrapped: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The wrapped handler, or one that rejects the call when too many are in flight."""
        method = handler_call_details.method
        handler = self._wrapped.get(method)
        if handler is None:
            inner = continuation(handler_call_details)
            if inner is None or method.startswith(HEALTH_PREFIX):
                return inner
            handler = self._wrapped[method] = self._wrap(method, inner)
        pool = self._pool_of(method, handler)
        if pool.full:
            return self._refusal(method, pool, handler)
        return handler

    def _pool_of(self, method: str, handler: Handler) -> Workers:
        if method == WATCH_METHOD:
            return self._pools.watchers
        if method in IMPORT_METHODS:
            return self._pools.imports
        if handler.request_streaming or handler.response_streaming:
            return self._pools.streams
        return self._pools.unary

    # --- refusing -------------------------------------------------------------------------------------------

    def _refusal(self, method: str, pool: Workers, handler: Handler) -> Handler:
        def refuse(_request: object, context: grpc.ServicerContext) -> Any:
            error = LimitExceeded(
                f"{pool.in_flight_max} calls of this kind are in flight already",
                metadata={"limit": str(pool.in_flight_max), "pool": pool.name},
            )
            self._log(method, context, error, 0.0)
            abort(context, error)

        return _handler_like(handler, refuse, self._pools.refusals)

    # --- wrapping -------------------------------------------------------------------------------------------

    def _wrap(self, method: str, inner: Handler) -> Handler:
        behaviour = _not_built(method) if method in METHODS_NOT_BUILT else _behaviour_of(inner)
        wrapped = self._streaming if inner.response_streaming else self._unary
        deserializer = self._measured(method, inner.request_deserializer)
        return _handler_like(inner, wrapped(method, behaviour), self._pool_of(method, inner), deserializer)

    def _measured(self, method: str, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        field = INGEST_METHODS.get(method)

        def read(data: bytes) -> Any:
            if len(data) > self._message_bytes_max:
                return Unreadable(_too_large(field, len(data), self._message_bytes_max))
            if parse is None:
                return data
            try:
                return parse(data)
            except DecodeError:
                return Unreadable(
                    InvalidInput.one("request", "could not be parsed as a message of this method")
                )

        return read

    def _unary(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.monotonic()
            try:
                answer = behaviour(self._readable(request), context)
            except grpc.RpcError:
                # The caller disconnected during the request: there is no one to answer.
                raise
            except Exception as error:
                self._log(method, context, error, time.monotonic() - started)
                abort(context, self._in_this_state(error))
            else:
                self._log(method, context, None, time.monotonic() - started)
                return answer

        return call

    def _streaming(self, method: str, behaviour: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            started = time.monotonic()
            try:
                yield from behaviour(self._readable(request), context)
            except Exception as error:
                if context.is_active():
                    self._log(method, context, error, time.monotonic() - started)
                    abort(context, self._in_this_state(error))
            else:
                self._log(method, context, None, time.monotonic() - started)

        return call

    def _readable(self, request: Any) -> Any:
        """The request as the handler expects it; an unreadable one raises its error, also within a stream."""
        if hasattr(request, "__next__"):
            return self._requests(request)
        return _checked(request)

    def _requests(self, requests: Iterator[Any]) -> Iterator[Any]:
        """The requests of a stream, until the service stops."""
        # Waiting for a request cannot be broken off, and a caller may send none for as long as it likes.
        with Prefetch(requests, depth=REQUESTS_AHEAD, name="requests", may_go_on=self._may_go_on) as ahead:
            for request in ahead:
                self._may_go_on()
                yield _checked(request)

    def _may_go_on(self) -> None:
        if self._stopping.is_set():
            raise StoreUnavailable("the service is stopping; send unacknowledged batches again")

    def _in_this_state(self, error: Exception) -> Exception:
        """While the service stops, reports that as the reason of any failure."""
        if self._stopping.is_set() and not isinstance(error, MilepostError):
            return StoreUnavailable("the service is stopping")
        return error

    def _log(
        self, method: str, context: grpc.ServicerContext, error: Exception | None, elapsed_s: float
    ) -> None:
        problem = error is not None or elapsed_s >= self._slow_call_s
        if self._access_log == "none" or (self._access_log == "problems" and not problem):
            return
        fields: dict[str, Any] = {"method": method, "peer": context.peer()}
        fields["elapsed_ms"] = round(elapsed_s * 1_000, 3)
        fields["code"] = "OK" if error is None else code_of(error).name
        if isinstance(error, MilepostError):
            fields["reason"] = error.reason
        _logger.info("call", **fields)


def _not_built(method: str) -> Callable[..., Any]:
    def refuse(_request: object, _context: grpc.ServicerContext) -> Any:
        raise Unsupported(f"{method} is not built yet", metadata={"method": method})

    return refuse


def _too_large(field: str | None, actual: int, limit: int) -> InvalidInput:
    violation = Violation(field or "request", f"has {actual:,} bytes; at most {limit:,} are allowed")
    return InvalidInput(
        [violation],
        reason="BATCH_TOO_LARGE" if field else "INVALID_ARGUMENT",
        metadata={"limit": str(limit), "actual": str(actual)},
    )


def _checked(request: Any) -> Any:
    """The request. Raises the error of an unreadable one."""
    if isinstance(request, Unreadable):
        raise request.error
    return request


def _behaviour_of(handler: Handler) -> Callable[..., Any]:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert behaviour is not None
    return behaviour


def _handler_like(
    handler: Handler,
    behaviour: Callable[..., Any],
    pool: Workers,
    deserializer: Callable[[bytes], Any] | None = None,
) -> Handler:
    """A handler of the same form as `handler` around another behaviour, which runs in a thread of `pool`."""
    form = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    # The server looks for the pool to use in this attribute of the behaviour.
    vars(behaviour)["experimental_thread_pool"] = pool
    return form(
        behaviour,
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
