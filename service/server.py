"""The gRPC server: services, health, reflection, limits and graceful shutdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from engine import Engine
from engine.limits import Limits
from engine.measures import Measure
from engine.resources.records import Account, ApiKey
from service.access_log import CallLog
from service.auth.gate import Gate
from service.auth.listening import cannot_listen, check_address
from service.auth.running import RunningCalls
from service.auth.snapshot import snapshot_of
from service.auth.tls import Certificates
from service.config import Config
from service.deaf_callers import DeafCallers
from service.draining import end_calls, end_server
from service.handlers.registration import add_handlers, runtime_of
from service.health import Health
from service.interceptors import CallInterceptor
from service.limits import (
    CLIENT_PING_INTERVAL_MS_MIN,
    KEEPALIVE_TIME_MS,
    KEEPALIVE_TIMEOUT_MS,
    RECEIVE_BYTES_MAX,
)
from service.methods import Kind
from service.pools import Pools
from service.reading import RequestReader
from service.reflection import add_reflection
from service.stopping import Stopping
from service.telemetry.line_limit import LineLimit

CONTRACT = "milepost.v1"
SOCKET_MODE = 0o600


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
    # Two servers on one port would split its calls between two stores.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS_MIN),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_INTERVAL_MS_MIN),
)


def connection_options(config: Config) -> tuple[tuple[str, int], ...]:
    """Options of a server that callers connect to themselves."""
    return (("grpc.max_concurrent_streams", config.connection_calls_max),)


class Server:
    """gRPC for an engine. It binds its port at once; `start` begins to serve.

    Callers connect to the port; readers and HTTP connect to the socket. A connection to the socket carries
    calls of many callers, so it has no limit of calls. gRPC has one such limit for a server: the socket has a
    server of its own, with the same handlers and threads.
    """

    def __init__(
        self,
        engine: Engine,
        config: Config,
        outer: Sequence[grpc.ServerInterceptor] = (),
        own_socket: Path | None = None,
        running: RunningCalls | None = None,
    ) -> None:
        """`outer` are interceptors around the service's own. With `own_socket` it is served there too; with
        readers there alone, as they have the port. `running` counts the calls of readers.
        """
        self._running = running
        self._config = config
        self.log_limit = LineLimit(config.access_log_lines_max)
        """Limit of the access log's lines."""
        self._stopping = Stopping()
        self._gate = Gate(
            engine.clock,
            calls_per_second_max=config.key_calls_per_second_max,
            in_flight_max=config.key_in_flight_max,
            operator_slots_percent_max=config.operator_slots_percent_max,
            running=running,
        )
        self._pools = Pools.of(config)
        engine.api_keys.subscribe(self._admit)
        self._deaf_callers = DeafCallers(config.stream_idle_s)
        self._health = Health()
        self._certificates = None if config.tls is None else Certificates(config.tls)
        interceptors = (*outer, self._interceptor(engine.limits))
        self._at_port = None if config.reader_count else self._grpc(interceptors, connection_options(config))
        self._at_socket = None if own_socket is None else self._grpc(interceptors, ())
        self._add_services(engine)
        self.port = self._bind(own_socket)

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return f"{self._config.host}:{self.port}"

    @property
    def gate(self) -> Gate:
        """What admits calls by their key."""
        return self._gate

    @property
    def certificates(self) -> Certificates | None:
        """The certificates; None without TLS."""
        return self._certificates

    @property
    def in_flight(self) -> int:
        """Number of running calls of the contract."""
        return self._pools.in_flight

    def is_serving(self, service: str) -> bool | None:
        """What health checks of a service answer; None for what is no service. "" is the server."""
        return self._health.is_serving(service)

    def measures(self) -> Iterator[Measure]:
        """Calls of each pool."""
        return self._pools.measures()

    def reload(self) -> bool:
        """Reads the TLS files again. False when there are none."""
        if self._certificates is None:
            return False
        self._certificates.refresh()
        return True

    def start(self) -> None:
        """Starts serving and reports SERVING to health checks."""
        self._pools.first_messages.start()
        self._deaf_callers.start()
        for server in self._servers:
            server.start()
        self._report(health_pb2.HealthCheckResponse.SERVING)

    def stop(self) -> None:
        """Reports NOT_SERVING and ends running calls within `stop_grace_s`, later ones at once."""
        end_calls(
            self._pools,
            self._health,
            self._stopping,
            self._config.stop_grace_s,
            on_stop=self._pools.wake_streams,
            on_grace_end=self._pools.wake_streams,
        )
        if self._at_port is not None:
            end_server(self._at_port, self.port)
        if self._at_socket is not None:
            end_server(self._at_socket, None)
        self._deaf_callers.stop()
        self._pools.shutdown()

    def _admit(self, keys: Iterable[ApiKey], accounts: Iterable[Account]) -> None:
        """Admits calls by these records of keys, from now on. Streams end with their keys."""
        self._gate.publish(snapshot_of(keys, accounts, self._running))
        self._pools.wake_streams()

    def _interceptor(self, limits: Limits) -> CallInterceptor:
        return CallInterceptor(
            self._pools,
            self._gate,
            reader=RequestReader(self._config.batch_bytes_max, limits),
            stream_idle_s=self._config.stream_idle_s,
            deaf_callers=self._deaf_callers,
            log=CallLog(self._config.access_log, self._config.slow_call_ms, self.log_limit),
            stopping=self._stopping,
        )

    def _grpc(
        self, interceptors: Sequence[grpc.ServerInterceptor], options: Sequence[tuple[str, int]]
    ) -> grpc.Server:
        return grpc.server(
            self._pools[Kind.UNARY], interceptors=[*interceptors], options=(*SERVER_OPTIONS, *options)
        )

    @property
    def _servers(self) -> Iterator[grpc.Server]:
        return (server for server in (self._at_port, self._at_socket) if server is not None)

    def _add_services(self, engine: Engine) -> None:
        runtime = runtime_of(engine, self._config, self._gate, self._stopping)
        for server in self._servers:
            add_handlers(runtime, server)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
            add_reflection((*SERVICE_NAMES, health.SERVICE_NAME), server)
        self._report(health_pb2.HealthCheckResponse.NOT_SERVING)

    @property
    def health(self) -> Health:
        """What health checks answer."""
        return self._health

    def report_writes(self, are_taken: bool) -> None:
        """Reports in health checks of IngestService whether writes are accepted."""
        statuses = health_pb2.HealthCheckResponse
        self._health.set(INGEST_SERVICE, statuses.SERVING if are_taken else statuses.NOT_SERVING)

    def _report(self, status: int) -> None:
        for name in (health.OVERALL_HEALTH, *SERVICE_NAMES):
            self._health.set(name, status)

    def _bind(self, own_socket: Path | None) -> int:
        check_address(
            self._config.host,
            keys_required=self._gate.required,
            insecure=self._config.insecure_listen,
            encrypted=self._certificates is not None,
            directory=self._config.directory,
        )
        address = f"{self._config.host}:{self._config.port}"
        try:
            if self._at_socket is not None:
                self._at_socket.add_insecure_port(f"unix:{own_socket}")
                assert own_socket is not None
                own_socket.chmod(SOCKET_MODE)
            if self._at_port is None:
                return self._config.port
            if self._certificates is not None:
                return self._at_port.add_secure_port(address, self._certificates.credentials())
            return self._at_port.add_insecure_port(address)
        except RuntimeError as error:
            raise cannot_listen(self._config.host, self._config.port, error) from error
