"""The whole service in one object: store, engine, server and background threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

import structlog

from engine import Engine
from engine.backends import registry
from engine.clock import Clock, monotonic_micros, wall_micros
from engine.errors import LimitExceeded
from engine.measures import Counter, Measure
from engine.values import MICROS_PER_SECOND, Micros
from service.background import ASIDE_THREADS, AsideRefresher, Refresher, Retainer, Timekeeper, WriteWatch
from service.backups import check_backup_dir
from service.command_line import DISTRIBUTION
from service.config import Config
from service.delivery.dispatcher import Dispatcher
from service.delivery.retry import RetryPolicy
from service.delivery.sinks.file import check_output_dir
from service.directories import check_data_dir, opening_data_dir
from service.readers.front import Front
from service.readers.shared_port import WriterSocket
from service.readers.supervisor import measures_of
from service.server import Server
from service.telemetry.application_metrics import ServiceMetrics
from service.telemetry.descriptors import DescriptorWatch
from service.telemetry.endpoint import MetricsEndpoint
from service.telemetry.line_limit import LeftOutLog
from service.telemetry.traces import Tracing

if TYPE_CHECKING:
    from service.web.listener import HttpListener

MS_PER_SECOND = 1_000

_logger = structlog.get_logger("milepost.service")


def clock_of(
    config: Config,
    wall: Callable[[], Micros] = wall_micros,
    monotonic: Callable[[], Micros] = monotonic_micros,
) -> Clock:
    """A clock as the settings say, by default over the machine's."""
    return Clock(
        wall,
        monotonic,
        follow_after=round(config.clock_follow_s * MICROS_PER_SECOND),
        settle_after=round(config.clock_settle_s * MICROS_PER_SECOND),
        trusted_at_start=config.clock == "trust",
    )


class Application:
    """Opens the store, serves it, and closes it again: `start` and `stop`, once each."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        """`clock` is by default the machine's, as the settings say."""
        self._stopped = False
        self._config = config
        began = time.monotonic()
        if config.directory is not None:
            check_data_dir(config.directory)
        if config.backup_dir is not None:
            check_backup_dir(config.backup_dir)
        if config.output_dir is not None:
            check_output_dir(config.output_dir)
        clock = clock_of(config) if clock is None else clock
        with opening_data_dir(config.directory):
            self._backend = registry.open_backend(
                config.store_url, settings=config.store_settings, clock=clock.stamp
            )
        self._log_store(time.monotonic() - began)
        try:
            self.engine = Engine(self._backend, limits=config.limits, clock=clock, keys=config.secret_keys)
            self._renew_secrets()
            version, (backend, _) = metadata.version(DISTRIBUTION), registry.split_url(config.store_url)
            self._metrics = ServiceMetrics(version, backend)
            self._tracing = Tracing() if config.traces == "otlp" else None
            outer = [self._metrics.calls, *([self._tracing] if self._tracing else [])]
            self._front = Front(config, self.engine) if config.reader_count else None
            self._http_socket = _http_socket(config)
            own_socket = self._http_socket if self._front is None else self._front.socket
            self._server = Server(
                self.engine,
                config,
                outer,
                None if own_socket is None else own_socket.path,
                None if self._front is None else self._front.running,
            )
            self._http = self._serve_http(config, own_socket)
            self._endpoint = self._serve_metrics(config)
        except BaseException:
            self._backend.close()
            raise
        self._refresher = Refresher(self.engine.live, interval_s=config.refresh_interval_ms / MS_PER_SECOND)
        self._aside = [AsideRefresher(self.engine.live) for _ in range(ASIDE_THREADS)]
        self._timekeeper = Timekeeper(self.engine.clock)
        self._write_watch = WriteWatch(self._backend.write_fault, self._server.report_writes)
        self._retainer = Retainer(self.engine.retention, interval_s=config.retention_interval_s)
        self._dispatcher = Dispatcher(
            self.engine,
            config.surroundings,
            RetryPolicy(budget_s=config.retry_budget_s),
            threads=config.delivery_threads,
            attempt_s_max=config.delivery_attempt_s_max,
            open_outputs_max=config.open_outputs_max,
            refused_bytes_max=config.refused_bytes_max,
        )
        self._left_out_log = LeftOutLog(self._server.log_limit)
        self._descriptors = DescriptorWatch()
        self._metrics.add(self._measures)

    def _serve_metrics(self, config: Config) -> MetricsEndpoint | None:
        if config.metrics_port is None:
            return None
        return MetricsEndpoint(
            self._metrics.registry, self._server.is_serving, config.metrics_host, config.metrics_port
        )

    def _serve_http(self, config: Config, grpc_socket: WriterSocket | None) -> HttpListener | None:
        if config.http_port is None or grpc_socket is None:
            return None
        # Not every server has what it needs.
        from service.web.listener import HttpListener

        return HttpListener(config, self._server.gate, grpc_socket.path, self._server.certificates)

    def _measures(self) -> Iterator[Measure]:
        yield from self._server.measures()
        yield from measures_of(0, Counter()) if self._front is None else self._front.measures()
        yield from self._dispatcher.measures()
        yield from self.engine.measures()

    @property
    def metrics_address(self) -> str | None:
        """Address that metrics are served on, with the actual port; None without metrics."""
        return None if self._endpoint is None else self._endpoint.address

    @property
    def http_address(self) -> str | None:
        """Address that HTTP is served on, with the actual port; None without HTTP."""
        return None if self._http is None else self._http.address

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return f"{self._config.host}:{self.port}"

    @property
    def port(self) -> int:
        """The actual port."""
        return self._server.port if self._front is None else self._front.port

    @property
    def reader_pids(self) -> list[int]:
        """Process ids of the readers that run."""
        return [] if self._front is None else self._front.pids

    @property
    def spare_reader_pid(self) -> int | None:
        """Process id of the reader in reserve; None while there is none."""
        return None if self._front is None else self._front.spare_pid

    @property
    def in_flight(self) -> int:
        """Number of running calls."""
        return self._server.in_flight

    def start(self) -> None:
        """Starts the server, the refresher, delivery and retention."""
        self._timekeeper.start()
        self._refresher.start()
        for each in self._aside:
            each.start()
        self._retainer.start()
        self._dispatcher.start()
        self._server.start()
        self._write_watch.start()
        self._left_out_log.start()
        self._descriptors.start()
        if self._front is not None:
            self._front.start(self._server.health, self._metrics.add_answered)
        if self._http is not None:
            self._http.start()

    def reload(self) -> None:
        """Reads again what can change while the service runs: the TLS files. Settings are read at a start."""
        if self._front is not None:
            self._front.reload()
        if not self._server.reload():
            _logger.warning("SIGHUP changes nothing: settings are read at a start; restart to apply them")

    def _log_store(self, seconds: float) -> None:
        stats = self._backend.stats()
        _logger.info(
            "store opened",
            store_id=stats.store_id,
            revision=stats.revision,
            users=stats.users,
            events=stats.events,
            disk_bytes=stats.disk_bytes,
            log_bytes=stats.log_bytes,
            seconds=round(seconds, 3),
        )

    def _renew_secrets(self) -> None:
        try:
            unreadable = self.engine.connections.renew_secrets()
        except LimitExceeded:
            # A full store keeps what it has: any of the keys decrypts it.
            return
        for output in unreadable:
            _logger.warning(
                "secrets of an output cannot be decrypted: give them again with UpdateOutput, or start with "
                "the key file of the store they come from",
                output=output,
            )

    def stop(self) -> None:
        """Reports NOT_SERVING, drains calls, stops the threads and closes the store. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._write_watch.stop()
        if self._http is not None:
            self._http.stop_listening()
        if self._front is not None:
            self._front.stop()
        self._server.stop()
        if self._http is not None:
            self._http.stop()
        self._left_out_log.stop()
        self._descriptors.stop()
        if self._endpoint is not None:
            self._endpoint.stop()
        if self._tracing is not None:
            self._tracing.stop()
        self._dispatcher.stop()
        self.engine.live.stop()
        self._refresher.stop()
        for each in self._aside:
            each.stop()
        self._retainer.stop()
        self._timekeeper.stop()
        if self._front is not None:
            self._front.close()
        if self._http_socket is not None:
            self._http_socket.close()
        self.engine.close()


def _http_socket(config: Config) -> WriterSocket | None:
    """Where calls over HTTP reach the gRPC server; with readers it has such a socket already."""
    return None if config.http_port is None or config.reader_count else WriterSocket(config.directory)
