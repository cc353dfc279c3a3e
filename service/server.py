"""The gRPC server: services, health, reflection, limits and graceful shutdown."""

from __future__ import annotations

import threading
from importlib import metadata

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine import Engine
from milepost.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    audience_service_pb2_grpc,
    catalog_service_pb2_grpc,
    connection_service_pb2_grpc,
    ingest_service_pb2_grpc,
    journey_service_pb2_grpc,
)
from service.config import Config
from service.deadlines import Deadlines
from service.handlers.account import AccountHandlers
from service.handlers.admin import AdminHandlers
from service.handlers.audience import AudienceHandlers
from service.handlers.catalog import CatalogHandlers
from service.handlers.connection import ConnectionHandlers
from service.handlers.ingest import IngestHandlers
from service.handlers.journey import JourneyHandlers
from service.handlers.runtime import Runtime
from service.interceptors import CallInterceptor, Pools, Workers
from service.limits import (
    CLIENT_PING_INTERVAL_MS_MIN,
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    RECEIVE_BYTES_MAX,
)

DISTRIBUTION = "milepost-server"
CONTRACT = "milepost.v1"
OVERALL = ""
"""The name under which `grpc.health.v1` reports the server as a whole."""
REFUSAL_THREADS = 2
HEALTH_THREADS = 2
DRAIN_POLL_S = 0.05


INGEST_SERVICE = f"{CONTRACT}.IngestService"
SERVICE_NAMES = tuple(
    f"{CONTRACT}.{name}"
    for name in (
        "AccountService",
        "AdminService",
        "AudienceService",
        "CatalogService",
        "ConnectionService",
        "IngestService",
        "JourneyService",
    )
)

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    # Two servers on one port would share its calls, and each know only its own store.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS_MIN),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS_MIN),
)


class CannotListen(OSError):
    """The address is in use, or does not belong to this machine."""


class Server:
    """A gRPC server for an engine. It is bound to its port; `start` makes it serve."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self._config = config
        self._stopping = threading.Event()
        self._pools = Pools(
            unary=Workers("unary", config.worker_threads, config.in_flight_max),
            streams=Workers("stream", config.streams_max, config.streams_max),
            imports=Workers("import", config.imports_max, config.imports_max),
            watchers=Workers("watcher", config.watchers_max, config.watchers_max),
            refusals=Workers("refusal", REFUSAL_THREADS, config.in_flight_max),
        )
        self._health_pool = Workers("health", HEALTH_THREADS, config.in_flight_max)
        self._health = health.HealthServicer(
            experimental_non_blocking=True, experimental_thread_pool=self._health_pool
        )
        self._server = grpc.server(
            self._pools.unary, interceptors=[self._interceptor()], options=SERVER_OPTIONS
        )
        self._add_services(engine)
        self.port = self._bind()

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return f"{self._config.host}:{self.port}"

    @property
    def in_flight(self) -> int:
        """Number of running calls of the contract."""
        return self._pools.in_flight

    def start(self) -> None:
        """Starts serving and reports SERVING to health checks."""
        self._server.start()
        self._report(health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Reports NOT_SERVING, ends streams and waits up to `stop_grace_s` for running calls."""
        self._health.enter_graceful_shutdown()
        self._stopping.set()
        stopped = self._server.stop(self._config.stop_grace_s)
        while not stopped.wait(DRAIN_POLL_S):
            if not self._pools.in_flight:
                # What is left are health checks that watch, which end only with the server. The answers of
                # the last calls have had the time of one more look to go out.
                stopped.wait(DRAIN_POLL_S)
                self._server.stop(None)
        self._pools.shutdown()
        self._health_pool.shutdown(wait=False)

    def _interceptor(self) -> CallInterceptor:
        return CallInterceptor(
            self._pools,
            message_bytes_max=self._config.batch_bytes_max,
            access_log=self._config.access_log,
            slow_call_ms=self._config.slow_call_ms,
            stopping=self._stopping,
        )

    def _add_services(self, engine: Engine) -> None:
        runtime = Runtime(
            engine=engine,
            deadlines=Deadlines(self._config.call_s_max),
            stopping=self._stopping,
            import_batch_bytes_max=self._config.import_batch_bytes_max,
            backup_dir=self._config.backups,
            start_time=engine.clock(),
            version=metadata.version(DISTRIBUTION),
        )
        server = self._server
        # Methods that are not built have no handlers: the interceptor answers them (`not_built`).
        account_handlers = AccountHandlers(runtime)  # type: ignore[abstract]
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(account_handlers, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(AdminHandlers(runtime), server)
        audience_service_pb2_grpc.add_AudienceServiceServicer_to_server(AudienceHandlers(runtime), server)
        catalog_service_pb2_grpc.add_CatalogServiceServicer_to_server(CatalogHandlers(runtime), server)
        connection_service_pb2_grpc.add_ConnectionServiceServicer_to_server(
            ConnectionHandlers(runtime), server
        )
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(IngestHandlers(runtime), server)
        journey_service_pb2_grpc.add_JourneyServiceServicer_to_server(JourneyHandlers(runtime), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (*SERVICE_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    def report_writes(self, are_taken: bool) -> None:
        """Reports to health checks of IngestService whether writes are accepted."""
        statuses = health_pb2.HealthCheckResponse
        self._health.set(INGEST_SERVICE, statuses.SERVING if are_taken else statuses.NOT_SERVING)

    def _report(self, status: int) -> None:
        for name in (OVERALL, *SERVICE_NAMES):
            self._health.set(name, status)

    def _bind(self) -> int:
        address = f"{self._config.host}:{self._config.port}"
        try:
            return self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise CannotListen(f"cannot listen on {address}: {error}") from error
