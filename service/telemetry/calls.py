"""Counts and times calls, and gives each an id for the log: the outermost interceptor.

Every label is looked up before a call comes, so measuring costs a few microseconds a call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.measures import Counter as Counts
from engine.measures import DurationCounts, Durations
from service.telemetry.collector import buckets_of
from service.telemetry.request_ids import CURRENT, Request
from service.telemetry.wrapping import (
    Behaviour,
    Handler,
    Wrapping,
    behaviour_of,
    code_of_failed,
    form_of,
    handler_like,
)

SECONDS_BUCKETS = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
)
LABELS = ("grpc_type", "grpc_service", "grpc_method")
TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}
UNKNOWN = ("unary", "unknown", "unknown", grpc.StatusCode.UNIMPLEMENTED.name)
"""Labels of calls of methods that do not exist: their names are the callers' choice, and have no bound."""


class CallMetrics(Collector):
    """The metrics of calls, named as other gRPC servers name them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._methods: dict[str, MethodMetrics] = {}
        self._unknown = Counts()
        registry.register(self)

    def unknown(self) -> None:
        """Counts a call of a method that does not exist."""
        self._unknown.add()

    def method(self, path: str, kind: str) -> MethodMetrics:
        """The metrics of a method. `kind` is one of `TYPES`."""
        with self._lock:
            found = self._methods.get(path)
            if found is None:
                service, _, name = path.removeprefix("/").partition("/")
                found = self._methods[path] = MethodMetrics((kind, service, name))
            return found

    def describe(self) -> Iterable[Metric]:
        """Nothing: see `MeasureCollector`."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Calls by code, and their durations."""
        handled = CounterMetricFamily(
            "grpc_server_handled", "Calls that ended, by status code.", labels=(*LABELS, "grpc_code")
        )
        seconds = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Duration of calls in their thread, in seconds.", labels=LABELS
        )
        handled.add_metric(UNKNOWN, self._unknown.value)
        with self._lock:
            methods = list(self._methods.values())
        for method in methods:
            for code, counter in method.handled.items():
                if counter.value or code is grpc.StatusCode.OK:
                    handled.add_metric((*method.labels, code.name), counter.value)
            counts = method.seconds.read()
            seconds.add_metric(method.labels, buckets_of(counts), counts.sum_s)
        yield handled
        yield seconds


class MethodMetrics:
    """The metrics of one method."""

    def __init__(self, labels: tuple[str, str, str]) -> None:
        self.labels = labels
        self.handled = {code: Counts() for code in grpc.StatusCode}
        self.seconds = Durations(SECONDS_BUCKETS)
        self._succeeded = self.handled[grpc.StatusCode.OK].add
        self._observe = self.seconds.add

    def succeeded(self, seconds: float) -> None:
        """Counts a call that ended with OK."""
        self._succeeded()
        self._observe(seconds)

    def failed(self, code: grpc.StatusCode, seconds: float) -> None:
        """Counts a call that ended with another code."""
        self.handled[code].add()
        self._observe(seconds)

    def succeeded_elsewhere(self, calls: DurationCounts) -> None:
        """Counts calls that another process answered with OK."""
        self._succeeded(calls.total)
        self.seconds.add_counts(calls)


class CallTelemetry(Wrapping):
    """Counts and times every call."""

    def __init__(self, metrics: CallMetrics) -> None:
        super().__init__()
        self._metrics = metrics

    def _missing(self) -> None:
        self._metrics.unknown()

    def _wrap(self, method: str, inner: Handler) -> Handler:
        metrics = self._metrics.method(method, TYPES[form_of(inner)])
        measure = _stream if inner.response_streaming else _single
        return handler_like(inner, measure(behaviour_of(inner), metrics))


def _single(behaviour: Behaviour, metrics: MethodMetrics) -> Behaviour:
    def call(message: Any, context: grpc.ServicerContext) -> Any:
        began = time.perf_counter()
        request = Request(context)
        CURRENT.set(request)
        try:
            answer = behaviour(message, context)
        except BaseException:
            metrics.failed(code_of_failed(context), time.perf_counter() - began)
            request.name()
            raise
        finally:
            CURRENT.set(None)
        metrics.succeeded(time.perf_counter() - began)
        if request.has_id:
            request.name()
        return answer

    return call


def _stream(behaviour: Behaviour, metrics: MethodMetrics) -> Behaviour:
    def call(message: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        began = time.perf_counter()
        request = Request(context)
        # gRPC runs all of a stream in one thread.
        CURRENT.set(request)
        try:
            yield from behaviour(message, context)
        except BaseException:
            metrics.failed(code_of_failed(context), time.perf_counter() - began)
            request.name()
            raise
        finally:
            # A stream that its caller left may end in another thread.
            if CURRENT.get() is request:
                CURRENT.set(None)
        if context.is_active():
            metrics.succeeded(time.perf_counter() - began)
        else:
            metrics.failed(grpc.StatusCode.CANCELLED, time.perf_counter() - began)
        if request.has_id:
            request.name()

    return call
