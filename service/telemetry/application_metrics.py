"""All metrics of one service, in one registry."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Info, ProcessCollector

from engine.measures import DurationCounts, Measure
from service.methods import Kind, kind_of
from service.telemetry.calls import TYPES, CallMetrics, CallTelemetry
from service.telemetry.collector import MeasureCollector


class ServiceMetrics:
    """Call metrics, measures of the engine, and figures of the process (`process_…`)."""

    def __init__(self, version: str, backend: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Info("milepost_build", "The build that runs.", registry=self.registry)
        build.info({"version": version, "python": platform.python_version(), "backend": backend})
        self._calls = CallMetrics(self.registry)
        self.calls = CallTelemetry(self._calls)

    def add_answered(self, method: str, calls: DurationCounts) -> None:
        """Counts calls that another process of the service answered with OK: of methods with one request."""
        has_stream = kind_of(method) is not Kind.UNARY
        self._calls.method(method, TYPES[False, has_stream]).succeeded_elsewhere(calls)

    def add(self, read: Callable[[], Iterable[Measure]]) -> None:
        """Adds measures, which are read whenever the metrics are."""
        self.registry.register(MeasureCollector(read))
