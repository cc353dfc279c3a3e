"""An HTTP endpoint for tests, on a real port, that answers as a script says.

with endpoint() as receiver:
    receiver.will_answer(Answer(503, {"Retry-After": "7"}), Answer(204))
    ...
    assert receiver.requests[0].headers["webhook-id"] == ...
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

HALF = "half"
"""Closes after half of the answer."""
DROP = "drop"
"""Closes without an answer."""
STALL = "stall"
"""Answers once the endpoint is released."""


@dataclass(frozen=True)
class Answer:
    """What a request is answered. `way`: how it is not, or when."""

    status: int = 204
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    way: str = ""


@dataclass(frozen=True)
class Received:
    """A request. Names of headers are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int = 0
    """Number of the connection that it came over, in order of acceptance."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a batch, or the one of a structured request."""
        found = json.loads(self.body)
        return found if isinstance(found, list) else [found]

    def verify(self, secret: str) -> None:
        """Checks the signature with the library. Raises WebhookVerificationError."""
        Webhook(secret).verify(self.body, dict(self.headers), json_parse=False)


class Endpoint:
    """Keeps the requests in order of arrival. What it answers by default is `decide`'s, else 204."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.decide: Callable[[Received], Answer] = lambda received: Answer()
        self._script: deque[Answer] = deque()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self.url = ""

    def will_answer(self, *answers: Answer) -> None:
        """Answers the next requests so, one each."""
        self._script.extend(answers)

    def release(self) -> None:
        """Lets stalled requests go."""
        self._released.set()

    @property
    def subjects(self) -> list[str]:
        """The users of all changes, in order of arrival."""
        return [event["subject"] for event in self.changes]

    @property
    def changes(self) -> list[dict[str, Any]]:
        """All events but the marks of snapshots, in order of arrival."""
        return [event for request in list(self.requests) for event in request.events if "subject" in event]

    def accepted(self) -> int:
        """Counts a connection, and returns its number."""
        with self._lock:
            self.connections += 1
            return self.connections

    def stall(self, seconds_max: float | None = None) -> None:
        """Waits until the endpoint is released."""
        self._released.wait(seconds_max)

    def take(self, received: Received) -> Answer:
        """Notes a request and says how it is answered."""
        with self._lock:
            self.requests.append(received)
            answer = self._script.popleft() if self._script else self.decide(received)
        if answer.way == STALL:
            self.stall()
        return answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoint: Endpoint
    # A response goes out in one write.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection_number = self.endpoint.accepted()

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers["content-length"]))
        answer = self.endpoint.take(Received(self.path, headers, body, self.connection_number))
        if answer.way == DROP:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body) * (2 if answer.way == HALF else 1)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()
        self.close_connection = self.close_connection or answer.way == HALF

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the tests."""


@contextlib.contextmanager
def endpoint(tls: ssl.SSLContext | None = None, *, made: Endpoint | None = None) -> Iterator[Endpoint]:
    """An endpoint that listens until the end of the block: a new one, or the one made before."""
    found = made or Endpoint()
    handler = type("Handler", (_Handler,), {"endpoint": found})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    scheme = "http" if tls is None else "https"
    found.url = f"{scheme}://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.release()
        server.shutdown()
        server.server_close()
        thread.join()


def closed_port() -> int:
    """A port of this machine that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
