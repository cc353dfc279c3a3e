"""Ends a gRPC server without a call that ends CANCELLED, which callers do not try again.

gRPC itself cancels what reaches a server that is being shut down. So callers are refused with UNAVAILABLE as
long as they are connected, and hung up on before the shutdown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import grpc

from service.connections import hang_up
from service.first_message import FirstMessages
from service.health import Health
from service.stopping import Stopping

DRAIN_POLL_S = 0.02
LAST_ANSWERS_S = 0.1
"""Time for the transport to send the last answers."""
CALLS_END_S_MAX = 2.0
"""How long calls may take to end after their grace period."""
SERVER_END_S_MAX = 2.0
"""How long gRPC may take to end once its connections are gone."""


class Calls(Protocol):
    """The calls of a server."""

    first_messages: FirstMessages

    @property
    def in_flight(self) -> int:
        """Calls running or queued."""
        ...


def end_calls(
    calls: Calls,
    health: Health,
    stopping: Stopping,
    grace_s: float,
    *,
    on_stop: Callable[[], None] = lambda: None,
    on_grace_end: Callable[[], None] = lambda: None,
) -> None:
    """Reports NOT_SERVING and ends the calls: running ones within `grace_s`, later ones at once.

    `on_stop` and `on_grace_end` end at those moments what the calls wait for.
    """
    health.enter_graceful_shutdown()
    stopping.set()
    calls.first_messages.refuse_all(stopping.retry_in_s)
    on_stop()
    _wait(calls, grace_s)
    stopping.end_grace()
    on_grace_end()
    _wait(calls, CALLS_END_S_MAX)
    time.sleep(LAST_ANSWERS_S)


def end_server(server: grpc.Server, port: int | None) -> None:
    """Hangs up on the callers of the port (None: it has no port of its own) and shuts the server down."""
    if port is not None:
        hang_up(port)
    # A call whose answer was under way when its connection ended may stay in gRPC for ever.
    server.stop(0).wait(SERVER_END_S_MAX)


def _wait(calls: Calls, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while calls.in_flight and time.monotonic() < deadline:
        time.sleep(DRAIN_POLL_S)
