"""Traces of calls, by OpenTelemetry's own interceptor. The packages are optional (extra `otel`).

The standard variables of OpenTelemetry say where spans go and which are kept: `OTEL_EXPORTER_OTLP_ENDPOINT`,
`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and others.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import grpc

from service.telemetry.wrapping import (
    Behaviour,
    Handler,
    Wrapping,
    behaviour_of,
    code_of_failed,
    handler_like,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

Traces = Literal["off", "otlp"]

SERVICE_NAME = "milepost"
"""Name of the service in traces, unless `OTEL_SERVICE_NAME` says another."""
HEALTH_PREFIX = "/grpc.health.v1.Health/"


NEEDED = (
    "opentelemetry.sdk.trace",
    "opentelemetry.instrumentation.grpc",
    "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
)


def missing_for(traces: Traces) -> str:
    """How to install what the setting needs; "" when all is there."""
    for module in NEEDED if traces == "otlp" else ():
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed: pip install 'milepost-server[otel]'"
    return ""


class Tracing(Wrapping):
    """Makes a span of every call, a child of the caller's when it sends one (`traceparent`)."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """`provider`: by default one that exports over OTLP."""
        super().__init__()
        from opentelemetry.instrumentation.grpc import server_interceptor

        self._provider = provider or _exporting()
        self._inner: grpc.ServerInterceptor = server_interceptor(self._provider)  # type: ignore[no-untyped-call]

    def _wrap(self, method: str, inner: Handler) -> Handler:
        if method.startswith(HEALTH_PREFIX):
            return inner
        mark = _marked_stream if inner.response_streaming else _marked
        marked = handler_like(inner, mark(behaviour_of(inner)))
        traced = self._inner.intercept_service(lambda _: marked, _Method(method))
        assert traced is not None
        return handler_like(inner, behaviour_of(traced))

    def stop(self) -> None:
        """Sends what is waiting to be sent."""
        self._provider.shutdown()


def _exporting() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = Resource.create({"service.name": SERVICE_NAME}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=named)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@dataclass
class _Method:
    """What the library's interceptor reads of a call: the same for each call of a method."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


def _marked(behaviour: Behaviour) -> Behaviour:
    def call(message: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behaviour(message, context)
        except BaseException as error:
            _mark(context, error)
            raise

    return call


def _marked_stream(behaviour: Behaviour) -> Behaviour:
    def call(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from behaviour(message, context)
        except BaseException as error:
            _mark(context, error)
            raise

    return call


def _mark(context: grpc.ServicerContext, error: BaseException) -> None:
    """Writes the code of a failed call into its span. The library does so for `abort`, and not for
    `abort_with_status`. It also records the error with all that it was raised from, whose messages may hold
    data of users.
    """
    error.__cause__ = error.__context__ = None
    from opentelemetry.trace import Status, StatusCode, get_current_span

    code, span = code_of_failed(context), get_current_span()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    span.set_status(Status(StatusCode.ERROR, code.name))
