"""Wraps every call: admission, size limits, errors and the access log.

One interceptor wraps each method once and caches the wrapped handler. So it has to be the outermost one, and
an interceptor behind it sees a method once, not every call. A call is admitted or refused before it takes a
thread, its message is measured before it is parsed, and its errors are mapped to canonical codes. Each kind
of call runs in a pool of its own (`service.pools`), so that no kind takes the threads of another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import grpc

from engine.errors import DeadlineExceeded, MilepostError, StoreUnavailable, Unsupported
from engine.limits import Limits
from service.access_log import CallLog
from service.auth.caller import current_call
from service.auth.gate import Gate
from service.auth.gated import gated
from service.convert.text_limits import WRITES, refuse_long_texts
from service.deaf_callers import DeafCallers
from service.errors import abort
from service.limits import METHOD_SHOWN_CHARACTERS_MAX, PROBE_IDLE_S
from service.methods import MADE_FOR, ONE_CALL, UNKNOWN_METHOD, Kind, is_health, kind_of
from service.pools import Pools
from service.reading import RequestReader, checked
from service.requests import RequestStreams
from service.stopping import Stopping
from service.workers import Workers

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[..., Any]


class Admitted(NamedTuple):
    """A wrapped method: its handler, and the pool that says whether a call of it is admitted."""

    handler: Handler
    pool: Workers
    stops: bool
    """Whether calls are refused once the service is stopping."""
    is_open: bool
    """Whether calls need no API key."""


class CallInterceptor(grpc.ServerInterceptor):
    """Applies admission, size limits, errors and the access log to every method."""

    def __init__(
        self,
        pools: Pools,
        gate: Gate,
        *,
        reader: RequestReader,
        stream_idle_s: float,
        deaf_callers: DeafCallers,
        log: CallLog,
        stopping: Stopping,
    ) -> None:
        self._pools = pools
        self._gate = gate
        self._reader = reader
        self._streams = RequestStreams(stopping, stream_idle_s, pools.silent_streams)
        self._deaf_callers = deaf_callers
        self._call_log = log
        self._stopping = stopping
        self._wrapped: dict[str, Admitted] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The wrapped handler, or one that refuses the call."""
        method = handler_call_details.method
        admitted = self._wrapped.get(method)
        if admitted is None:
            inner = continuation(handler_call_details)
            if inner is None:
                return self._refusal(method, None, self._why_unknown(method, handler_call_details))
            admitted = self._wrapped[method] = self._wrap(method, inner)
        handler, pool, stops, is_open = admitted
        try:
            if stops:
                self._stopping.refuse()
            caller = None if is_open else self._gate.admit(method, handler_call_details.invocation_metadata)
            pool.refuse_if_full(None if caller is None else caller.holder)
        except MilepostError as error:
            return self._refusal(method, handler, error)
        return handler

    def _why_unknown(self, method: str, details: grpc.HandlerCallDetails) -> MilepostError:
        """The refusal of a call of a method that does not exist."""
        try:
            if not is_health(method):
                self._gate.admit_unknown(method, details.invocation_metadata)
        except MilepostError as error:
            return error
        return _unknown(method)

    def _refusal(self, method: str, handler: Handler | None, error: MilepostError) -> Handler:
        """A handler that refuses one call, of the same form as `handler`; None: the caller alone knows the
        form. No request is awaited.
        """

        def refuse(_request: object, context: grpc.ServicerContext) -> Any:
            self._abort(method, context, error, 0.0)

        vars(refuse)[MADE_FOR] = UNKNOWN_METHOD if handler is None else ONE_CALL
        if handler is None:
            handler = grpc.stream_stream_rpc_method_handler(refuse)
        return _handler_like(handler, refuse, self._pools.refusals)

    # --- wrapping -------------------------------------------------------------------------------------------

    def _wrap(self, method: str, inner: Handler) -> Admitted:
        kind, is_open = kind_of(method), is_health(method)
        pool = self._pools[kind]
        behaviour = _behaviour_of(inner)
        if method.rpartition("/")[2].startswith(WRITES):
            behaviour = _limited(behaviour, self._reader.limits)
        if not is_open:
            behaviour = gated(behaviour, method, self._gate, response_streaming=inner.response_streaming)
        read = self._reader.of(method, inner.request_deserializer)
        if inner.request_streaming:
            behaviour = self._reading(
                behaviour, read, pool.name, PROBE_IDLE_S if kind is Kind.PROBE else None
            )
            # gRPC would parse each message in the thread that receives for all calls.
            read = bytes
        if getattr(behaviour, "experimental_non_blocking", False):
            wrapped = self._calling_back(method, behaviour)
        elif inner.response_streaming:
            wrapped = self._streaming(method, pool, behaviour)
        else:
            wrapped = self._unary(method, pool, behaviour)
        handler = _handler_like(inner, wrapped, pool, read)
        return Admitted(handler, pool, stops=kind is not Kind.PROBE, is_open=is_open)

    def _reading(
        self, behaviour: Behaviour, read: Callable[[bytes], Any], pool: str, idle_s_max: float | None
    ) -> Behaviour:
        """Reads the requests of a stream within its limits."""

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            # Here, as handlers may read the requests in another thread.
            method, caller = current_call()
            may_go_on = partial(self._gate.check, method, caller)
            shared = pool if caller.holder is None else None
            return behaviour(self._streams.read(requests, read, may_go_on, idle_s_max, shared), context)

        return call

    def _unary(self, method: str, pool: Workers, behaviour: Behaviour) -> Behaviour:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            started = time.monotonic()
            try:
                self._stopping.refuse_late()
                answer = behaviour(checked(request), context)
            except grpc.RpcError:
                # The caller disconnected during the request: there is no one to answer.
                raise
            except Exception as error:
                self._abort(method, context, error, time.monotonic() - started)
            else:
                self._call_log.succeeded(method, context, time.monotonic() - started)
                return answer
            finally:
                pool.leave()

        return call

    def _streaming(self, method: str, pool: Workers, behaviour: Behaviour) -> Callable[..., Iterator[Any]]:
        def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            started = time.monotonic()
            try:
                answers = behaviour(checked(request), context)
                for answer in self._deaf_callers.sent(answers, method, context):
                    self._stopping.refuse_late()
                    yield answer
            except Exception as error:
                if context.is_active():
                    self._abort(method, context, error, time.monotonic() - started)
            else:
                self._call_log.finished(method, context, time.monotonic() - started)
            finally:
                pool.leave()

        return call

    def _calling_back(self, method: str, behaviour: Behaviour) -> Behaviour:
        """A stream of answers that takes no thread between them: the behaviour keeps `send`."""

        def call(request: Any, context: grpc.ServicerContext, send: Callable[[Any], None]) -> None:
            try:
                behaviour(checked(request), context, send)
            except Exception as error:
                self._abort(method, context, error, 0.0)

        vars(call)["experimental_non_blocking"] = True
        return call

    # --- refusing -------------------------------------------------------------------------------------------

    def _abort(self, method: str, context: grpc.ServicerContext, error: Exception, elapsed_s: float) -> None:
        """Logs the error and ends the call with its status. Raises, as `context.abort` does."""
        self._call_log.failed(method, context, elapsed_s, error)
        reported = self._in_this_state(error)
        is_stop = self._stopping.is_set() and isinstance(reported, StoreUnavailable)
        abort(context, reported, retry_in_s=self._stopping.retry_in_s if is_stop else None)

    def _in_this_state(self, error: Exception) -> Exception:
        """While the service stops, that is the cause of any defect, and of work that was told to end."""
        if self._stopping.grace_over and isinstance(error, DeadlineExceeded):
            return StoreUnavailable("the service is stopping and the call took longer than its grace period")
        if self._stopping.is_set() and not isinstance(error, MilepostError):
            return StoreUnavailable("the service is stopping")
        return error


def _unknown(method: str) -> Unsupported:
    shown = method[:METHOD_SHOWN_CHARACTERS_MAX]
    return Unsupported(
        f"the server has no method {shown}", reason="UNKNOWN_METHOD", metadata={"method": shown}
    )


def _limited(behaviour: Behaviour, limits: Limits) -> Behaviour:
    def check_first(request: Any, context: grpc.ServicerContext) -> Any:
        refuse_long_texts(request, limits)
        return behaviour(request, context)

    return check_first


def _behaviour_of(handler: Handler) -> Behaviour:
    behaviour = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert behaviour is not None
    return behaviour


def _handler_like(
    handler: Handler,
    behaviour: Behaviour,
    pool: Workers,
    deserializer: Callable[[bytes], Any] | None = None,
) -> Handler:
    """A handler of the same kind as `handler` with another behaviour, which runs in a thread of `pool`."""
    form = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    # gRPC reads the thread pool from this attribute of the behaviour.
    vars(behaviour)["experimental_thread_pool"] = pool
    return form(
        behaviour,
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
