"""The gRPC server of a reader."""

from __future__ import annotations

import grpc

from engine.audiences.live import STORED_AGE_MICROS_MAX
from engine.backends import registry
from engine.resources.paging import Pages
from engine.resources.signing import Signer
from service.access_log import CallLog
from service.auth.listening import cannot_listen
from service.auth.running import RunningCalls
from service.auth.tls import Certificates
from service.config import Config
from service.connections import stop_listening
from service.convert.revisions import Revisions
from service.deaf_callers import DeafCallers
from service.draining import end_calls, end_server
from service.health import Health
from service.readers.answers import Answers
from service.readers.forwarding import Forwarder
from service.readers.keys import ReaderKeys
from service.readers.messages import Start
from service.readers.routes import ReaderPools, Routes
from service.reading import RequestReader
from service.server import SERVER_OPTIONS, connection_options
from service.stopping import Stopping
from service.telemetry.line_limit import LineLimit

SHARES_PORT = ("grpc.so_reuseport", 1)
READER_SERVER_OPTIONS = (*(option for option in SERVER_OPTIONS if option[0] != SHARES_PORT[0]), SHARES_PORT)


class ReaderServer:
    """A gRPC server on a shared port. It binds the port at once; `start` begins to serve."""

    def __init__(self, start: Start) -> None:
        """Raises CannotListen."""
        self._config = config = start.config()
        self._stopping = Stopping()
        self._forwarder = Forwarder(start.writer_socket, self._stopping)
        self._health = Health()
        for service, status in start.health.items():
            self._health.set(service, status)
        self._pools = ReaderPools(config)
        reader = RequestReader(config.batch_bytes_max, config.limits)
        keys, answers = _answers(start, config, reader, self._stopping)
        self.answered = answers.answered
        """Calls that were answered here, by method."""
        self._deaf_callers = DeafCallers(config.stream_idle_s)
        routes = Routes(
            self._pools,
            keys,
            self._forwarder,
            answers,
            self._health,
            self._stopping,
            reader,
            self._deaf_callers,
        )
        self._server = grpc.server(
            self._pools.unary,
            interceptors=[routes],
            options=(*READER_SERVER_OPTIONS, *connection_options(config)),
        )
        routes.register(self._server)
        self._certificates = None if config.tls is None else Certificates(config.tls)
        address = f"{config.host}:{config.port}"
        try:
            if self._certificates is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, self._certificates.credentials())
        except RuntimeError as error:
            raise cannot_listen(config.host, config.port, error) from error

    def start(self) -> None:
        """Starts serving."""
        self._pools.first_messages.start()
        self._deaf_callers.start()
        self._server.start()

    def reload(self) -> None:
        """Reads the TLS files again."""
        if self._certificates is not None:
            self._certificates.refresh()

    def set_health(self, service: str, status: int) -> None:
        """Sets what health checks answer for a service."""
        self._health.set(service, status)

    def stop(self, *, alone: bool) -> None:
        """Reports NOT_SERVING and ends the server: running calls within the grace period, later ones at once.

        `alone`: only this reader stops, so callers connect to another from now on.
        """
        if alone:
            stop_listening(self._config.port)
        end_calls(
            self._pools,
            self._health,
            self._stopping,
            self._config.stop_grace_s,
            on_stop=self._forwarder.end_streams,
            on_grace_end=self._forwarder.end_all,
        )
        end_server(self._server, self._config.port)
        self._deaf_callers.stop()
        self._pools.shutdown()
        self._forwarder.close()


def _answers(
    start: Start, config: Config, reader: RequestReader, stopping: Stopping
) -> tuple[ReaderKeys, Answers]:
    tools = registry.registration(start.backend).serving
    assert tools is not None, "the service starts no readers for a backend that serves none"
    served = tools.reader(start.memory, STORED_AGE_MICROS_MAX)
    keys = ReaderKeys(
        served,
        readers=config.reader_count,
        calls_per_second_max=config.key_calls_per_second_max,
        in_flight_max=config.key_in_flight_max,
        operator_slots_percent_max=config.operator_slots_percent_max,
        running=RunningCalls(config.reader_count + 1, own=start.number, descriptor=start.running),
    )
    signer = Signer(start.token_secret)
    revisions = Revisions(start.store_id, signer, served.revision)
    pages = Pages(signer, config.limits.page_token_bytes_max)
    log = CallLog(config.access_log, config.slow_call_ms, LineLimit(config.access_log_lines_max))
    return keys, Answers(served, revisions, keys, reader, pages, log, config, stopping)
