"""Metrics and health over HTTP, on a port of their own, for those that do not speak gRPC.

GET /metrics                              the metrics, in the form of Prometheus
GET /health                               200 when the service serves, 503 when it does not
GET /health/milepost.v1.IngestService     the same of one service: here, whether writes are accepted
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from service.auth.listening import cannot_listen

METRICS_PATH = "/metrics"
HEALTH_PATH = "/health"
REQUEST_S_MAX = 10.0
"""A client that is silent for this long is disconnected."""
CONNECTIONS_MAX = 64
"""Connections at a time; of more, the server hangs up."""
STOP_POLL_S = 0.05

_logger = structlog.get_logger("milepost.metrics")

Health = Callable[[str], bool | None]
"""Whether a service is SERVING; None for what is no service."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._slots = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers in a new thread, unless too many are busy: then it hangs up."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers, in a thread of its own."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a defect. A client that is silent or hangs up is none."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _logger.error("metrics not answered", exc_info=error)


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S_MAX

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: requests come every few seconds."""


class MetricsEndpoint:
    """Answers each request in a thread of its own."""

    def __init__(self, registry: CollectorRegistry, health: Health, host: str, port: int) -> None:
        """Listens at once; port 0 picks a free one. Raises CannotListen when it cannot."""
        self._host = host
        self._health = health
        self._metrics = make_wsgi_app(registry)
        try:
            self._server = make_server(host, port, self._answer, _Server, _Handler)
        except OSError as error:
            raise cannot_listen(host, port, error, served="metrics") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(STOP_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return f"{self._host}:{self._server.server_port}"

    def stop(self) -> None:
        """Stops answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == METRICS_PATH:
            metrics: Iterable[bytes] = self._metrics(environ, start_response)
            return metrics
        status, text = self._status_of(path)
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def _status_of(self, path: str) -> tuple[HTTPStatus, str]:
        base, _, service = path.removeprefix("/").partition("/")
        serving = self._health(service) if f"/{base}" == HEALTH_PATH else None
        if serving is None:
            return HTTPStatus.NOT_FOUND, "NOT_FOUND"
        return (HTTPStatus.OK, "SERVING") if serving else (HTTPStatus.SERVICE_UNAVAILABLE, "NOT_SERVING")
