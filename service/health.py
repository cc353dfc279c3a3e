"""Health checks, as `grpc.health.v1` defines them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_health.v1 import health_pb2 as untyped
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from engine.errors import NotFound

LISTS: Any = untyped
"""The messages of `List`, which the type stubs lack."""
_NO_SERVICE = "-"
"""Stands for every name that is no service: those who watch one are remembered under it."""


class Health(health.HealthServicer):
    """The health of every service. Watchers take no thread, and names that are no service no memory."""

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True)
        self._services = {health.OVERALL_HEALTH}
        self._told: list[Callable[[str, int], None]] = []
        self._states: dict[str, int] = {}

    def set(self, service: str, status: int) -> None:
        """Sets the state of a service, and tells those who watch it."""
        self._services.add(service)
        changed = self._states.get(service) != status
        self._states[service] = status
        super().set(service, status)
        for tell in self._told if changed else ():
            tell(service, status)

    def states(self) -> dict[str, int]:
        """The state of every service."""
        return dict(self._states)

    def tell(self, changed: Callable[[str, int], None]) -> None:
        """Calls `changed` whenever the state of a service changes."""
        self._told.append(changed)

    def is_serving(self, service: str) -> bool | None:
        """Whether a service is SERVING; None for what is no service."""
        status = self._states.get(service)
        return None if status is None else status == HealthCheckResponse.SERVING

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        """The state of a service. Raises NotFound."""
        if request.service not in self._services:
            raise NotFound(request.service)
        return super().Check(request, context)

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The state of every service."""
        states = {name: HealthCheckResponse(status=status) for name, status in self._states.items()}
        return LISTS.HealthListResponse(statuses=states)

    def Watch(
        self,
        request: HealthCheckRequest,
        context: grpc.ServicerContext,
        send_response_callback: Callable[[Any], None] | None = None,
    ) -> Any:
        """The state of a service, now and whenever it changes."""
        known = request if request.service in self._services else HealthCheckRequest(service=_NO_SERVICE)
        return super().Watch(known, context, send_response_callback)
