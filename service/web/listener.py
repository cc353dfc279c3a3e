"""The HTTP server: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from service.auth.gate import Gate
from service.auth.listening import CannotListen, cannot_listen, check_address
from service.auth.tls import Certificates
from service.config import Config
from service.limits import HEAD_S_MAX, MESSAGE_S_MAX
from service.web.bodies import Converter
from service.web.calls import PASSED_ON, Calls
from service.web.endpoints import Application, methods
from service.web.front import App, Front
from service.web.guard import Guard
from service.web.protocol import connections

KEEP_ALIVE_S = 75
"""How long a connection without a request stays open. Longer than the minute of common proxies."""
START_S_MAX = 30.0
END_S_MAX = 2.0
"""How long answers may take to be sent once the gRPC server has stopped."""
CORS_AGE_S = 7_200
"""How long browsers keep the answer to a preflight request."""
CORS_REQUEST_HEADERS = (
    *PASSED_ON,
    "connect-accept-encoding",
    "connect-content-encoding",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-encoding",
    "content-type",
    "grpc-timeout",
    "x-grpc-web",
    "x-user-agent",
)
CORS_ANSWER_HEADERS = ("grpc-message", "grpc-status", "grpc-status-details-bin", "trailer-x-request-id")


class HttpListener:
    """Serves the contract over HTTP. Listens at once; `start` begins to answer."""

    def __init__(
        self, config: Config, gate: Gate, grpc_socket: Path, certificates: Certificates | None
    ) -> None:
        """`grpc_socket` is where the gRPC server listens. Raises CannotListen."""
        assert config.http_port is not None
        check_address(
            config.http_host,
            keys_required=gate.required,
            insecure=config.insecure_listen,
            encrypted=certificates is not None,
            directory=config.directory,
        )
        self._host = config.http_host
        self._sockets = listening(config.http_host, config.http_port)
        self.port: int = self._sockets[0].getsockname()[1]
        streams_max = config.streams_max + config.imports_max + config.exports_max + config.watchers_max
        self._calls = Calls(grpc_socket, streams_max)
        self._converter = Converter(config.batch_bytes_max, config.limits)
        guard = Guard(
            gate,
            calls_max=config.in_flight_max + streams_max,
            streams_max=streams_max,
            any_host=config.insecure_listen,
        )
        application: Any = Application(self._calls, self._converter, guard)
        self._front = front = Front(
            application,
            methods(),
            gate,
            message_s_max=min(config.stream_idle_s, MESSAGE_S_MAX),
            stream_idle_s=config.stream_idle_s,
        )
        self._server = _Server(
            _settings(
                _with_cors(front, config.http_cors_origins),
                certificates,
                head_s_max=min(config.stream_idle_s, HEAD_S_MAX),
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=(self._sockets,), name="web", daemon=True
        )

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return f"{self._host}:{self.port}"

    def start(self) -> None:
        """Starts to answer."""
        self._calls.start()
        self._thread.start()
        if not self._server.is_ready.wait(START_S_MAX):
            raise CannotListen(f"the HTTP server on {self.address} does not start")

    def stop_listening(self) -> None:
        """Takes no more connections and requests, and refuses those that have not come whole. Calls go on
        until the gRPC server ends them.
        """
        self._server.should_exit = True
        loop = self._server.loop
        if loop is not None and not loop.is_closed():
            # The loop may end at this moment; then nobody waits for an answer.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._front.bodies.stop)

    def stop(self) -> None:
        """Ends the server. Called once the gRPC server has stopped."""
        self.stop_listening()
        if self._thread.ident is not None:
            self._thread.join(END_S_MAX)
            self._server.force_exit = True
            self._thread.join()
        self._calls.close()
        self._converter.close()
        for each in self._sockets:
            each.close()


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        self.is_ready.set()


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets with one port on every address of the host. Raises CannotListen."""
    found: list[socket.socket] = []
    try:
        for family, _, protocol, _, address in socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            # With the protocol named, asyncio turns off the delay of small answers.
            made = socket.socket(family, socket.SOCK_STREAM, protocol)
            found.append(made)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address[0], found[0].getsockname()[1] or address[1], *address[2:]))
            # Another service on the port is refused from here on.
            made.listen()
    except OSError as error:
        for each in found:
            each.close()
        raise cannot_listen(host, port, error, served="HTTP") from error
    return found


def _settings(application: App, certificates: Certificates | None, *, head_s_max: float) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="asyncio",
        http=connections(head_s_max),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        # Any caller can claim another address, so the log names the peer.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        ssl_context_factory=None if certificates is None else lambda *_: certificates.context(),
    )


def _with_cors(application: App, origins: str | None) -> App:
    """The application, for pages of these origins too."""
    if origins is None:
        return application
    return CORSMiddleware(
        application,
        allow_origins=[origin.strip() for origin in origins.split(",")],
        allow_methods=["GET", "POST"],
        allow_headers=CORS_REQUEST_HEADERS,
        expose_headers=CORS_ANSWER_HEADERS,
        max_age=CORS_AGE_S,
    )
