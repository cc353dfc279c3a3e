"""Interceptors that wrap the handler of each method once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from service.methods import MADE_FOR, ONE_CALL, UNKNOWN_METHOD

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]
Form: TypeAlias = tuple[bool, bool]
"""Whether requests and answers are streams."""

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Wrapping(grpc.ServerInterceptor):
    """Keeps what it wrapped. Handlers that are made for one call, such as refusals, are wrapped each time."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        """Method → what was wrapped, and the result."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The handler of the method, wrapped."""
        inner = continuation(handler_call_details)
        if inner is None or made_for(inner) == UNKNOWN_METHOD:
            self._missing()
            return inner
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is inner:
            return known[1]
        # Health watches answer through a callback and hold no thread, so there is no call to wrap.
        is_callback = getattr(behaviour_of(inner), "experimental_non_blocking", False)
        wrapped = inner if is_callback else self._wrap(method, inner)
        if known is None and made_for(inner) != ONE_CALL:
            self._wrapped[method] = inner, wrapped
        return wrapped

    def _missing(self) -> None:
        """The method of the call does not exist."""

    @abstractmethod
    def _wrap(self, method: str, inner: Handler) -> Handler:
        """A handler around another one."""


def made_for(handler: Handler) -> str:
    """What a handler that refuses is for; "" for a handler that does not."""
    return getattr(behaviour_of(handler), MADE_FOR, "")


def form_of(handler: Handler) -> Form:
    """Which sides of the method are streams."""
    return handler.request_streaming, handler.response_streaming


def behaviour_of(handler: Handler) -> Behaviour:
    """The function that runs a call."""
    behaviour: Behaviour | None = (
        handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    )
    assert behaviour is not None
    return behaviour


def code_of_failed(context: grpc.ServicerContext) -> grpc.StatusCode:
    """The code that a call that raised ends with."""
    # A method of the context since grpcio 1.44 that its type stubs lack.
    code = context.code()  # type: ignore[attr-defined]
    if isinstance(code, grpc.StatusCode):
        return code
    return grpc.StatusCode.UNKNOWN if context.is_active() else grpc.StatusCode.CANCELLED


def handler_like(handler: Handler, behaviour: Behaviour) -> Handler:
    """A handler of the same form with another behaviour, which runs in the same thread pool."""
    # gRPC reads the pool from an attribute of the behaviour.
    vars(behaviour).update(vars(behaviour_of(handler)))
    return _MAKERS[form_of(handler)](
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
