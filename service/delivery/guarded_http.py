"""HTTP to addresses that the guard allows, with one deadline for all of a request.

Timeouts of HTTP libraries hold for a single operation, so a receiver that sends a byte now and then would
hold a thread for as long as it likes. Here every read and write gets what is left until the deadline.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from service.delivery.guard import Guard

CONNECTIONS_MAX = 1
"""A sink has one request under way."""
IDLE_S_MAX = 15.0
"""How long a connection is kept for the next request."""


class GuardedTransport(httpx.BaseTransport):
    """Requests over one connection to an allowed address of the URL's host. Set `deadline` before each.

    A request raises TargetRefused, OSError, and the errors of httpcore that `HTTP_ERRORS` names.
    """

    def __init__(self, guard: Guard, tls: ssl.SSLContext) -> None:
        self._network = _Network(guard)
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=CONNECTIONS_MAX,
            keepalive_expiry=IDLE_S_MAX,
            network_backend=self._network,
        )

    def until(self, deadline: float) -> None:
        """Ends what follows at `deadline`, an instant of `time.monotonic()`."""
        self._network.deadline = deadline

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request. The answer's body is read from the connection as it is asked for."""
        assert isinstance(request.stream, httpx.SyncByteStream)
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        """Closes the connection."""
        self._pool.close()


HTTP_ERRORS = (
    OSError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
)
"""What a request or the reading of its answer raises when the receiver or the network fails."""


class _Body(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Network(httpcore.NetworkBackend):
    """Opens connections through the guard."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.deadline = 0.0

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        connection = self._guard.connect(host.strip("[]"), port, self.deadline)
        # The headers and the body are separate writes: neither may wait for the other's acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return _Stream(connection, self)

    def remaining_s(self) -> float:
        """Seconds until the deadline. Raises TimeoutError after it."""
        remaining_s = self.deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("timed out")
        return remaining_s


class _Stream(httpcore.NetworkStream):
    """A connection whose operations end at the deadline."""

    def __init__(self, connection: socket.socket, network: _Network) -> None:
        self._connection = connection
        self._network = network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._connection.settimeout(self._network.remaining_s())
            return self._connection.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout("it did not answer in time") from error
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = memoryview(buffer)
        try:
            while left:
                self._connection.settimeout(self._network.remaining_s())
                left = left[self._connection.send(left) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout("it did not read in time") from error
        except OSError as error:
            # It may have answered before it had read everything: httpcore goes on to read that.
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        self._connection.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        try:
            self._connection.settimeout(self._network.remaining_s())
            encrypted = ssl_context.wrap_socket(self._connection, server_hostname=server_hostname)
        except BaseException:
            self.close()
            raise
        return _Stream(encrypted, self._network)

    def get_extra_info(self, info: str) -> Any:
        """Whether the receiver has closed an idle connection; of nothing else is anything known."""
        if info != "is_readable":
            return None
        poll = select.poll()
        poll.register(self._connection.fileno(), select.POLLIN)
        return bool(poll.poll(0))
