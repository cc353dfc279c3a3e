"""The contract without a network: its handlers over an engine in memory, called in this process.

Tests of rules ask thousands of short questions of a service of their own. Stubs of the contract can be built
on an `InProcess` in the place of a channel. Calls run the handlers in the caller's thread, and errors have
the status that the service would send. There are no connections, so keys, limits of calls and delivery to
outputs are not part of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import grpc

from engine import Engine
from engine.backends import registry
from engine.clock import Clock
from engine.values import Micros
from service.auth.gate import Gate
from service.config import Config
from service.errors import answer_of
from service.handlers.registration import add_handlers, runtime_of
from service.stopping import Stopping

CONFIG = Config(memory=True, store_settings={"groups": 1})
"""For a handful of users, a question takes a fraction of the time with one group."""


class InProcess:
    """A service in memory, without a network. Close it at the end. One thread at a time may call."""

    def __init__(self, clock: Callable[[], Micros]) -> None:
        """`clock` is the service's: a function that answers the time now."""
        trusted = Clock.of(clock)
        backend = registry.open_backend(CONFIG.store_url, settings=CONFIG.store_settings, clock=trusted.stamp)
        try:
            self._engine = Engine(backend, clock=trusted)
            self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
            # It collects the handlers as a server does.
            add_handlers(
                runtime_of(self._engine, CONFIG, _open_gate(trusted), Stopping()), cast(grpc.Server, self)
            )
        except BaseException:
            backend.close()
            raise

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the engine. Its data are gone."""
        self._engine.close()

    # --- as a server ---

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: `add_registered_method_handlers` has the same handlers by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Takes the handlers of a service."""
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    # --- as a channel ---

    def unary_unary(self, path: str, *_: object, **__: object) -> Callable[..., Any]:
        """A call with one request and one response."""
        return _one_response(self._handlers[path].unary_unary)

    def stream_unary(self, path: str, *_: object, **__: object) -> Callable[..., Any]:
        """A call with many requests and one response."""
        return _one_response(self._handlers[path].stream_unary)

    def unary_stream(self, path: str, *_: object, **__: object) -> Callable[..., Iterator[Any]]:
        """A call with one request and many responses."""
        return _many_responses(self._handlers[path].unary_stream)

    def stream_stream(self, path: str, *_: object, **__: object) -> Callable[..., Iterator[Any]]:
        """A call with many requests and many responses."""
        return _many_responses(self._handlers[path].stream_stream)


class RefusedInProcess(grpc.RpcError):
    """The status of a refused call, with the methods of gRPC's own errors."""

    def __init__(self, error: BaseException) -> None:
        status, self._trailing_metadata = answer_of(error, None)
        self._code, self._details = status.code, status.details
        super().__init__(self._details)

    def code(self) -> grpc.StatusCode:
        """The canonical code."""
        return self._code

    def details(self) -> str:
        """The message."""
        return str(self._details)

    def trailing_metadata(self) -> Any:
        """The details of the status."""
        return self._trailing_metadata


class _Context:
    """What handlers ask of a call: it has no deadline, and its caller waits."""

    def time_remaining(self) -> float:
        return math.inf

    def is_active(self) -> bool:
        return True

    def send_initial_metadata(self, metadata: object) -> None:
        """Nobody reads it."""


_CONTEXT = _Context()


def _one_response(handle: Any) -> Callable[..., Any]:
    def call(request: Any, **_: object) -> Any:
        try:
            return handle(request, _CONTEXT)
        except Exception as error:
            raise RefusedInProcess(error) from error

    return call


def _many_responses(handle: Any) -> Callable[..., Iterator[Any]]:
    def call(request: Any, **_: object) -> Iterator[Any]:
        try:
            yield from handle(request, _CONTEXT)
        except Exception as error:
            raise RefusedInProcess(error) from error

    return call


def _open_gate(clock: Clock) -> Gate:
    """A gate that no call passes: nobody needs a key here."""
    return Gate(
        clock,
        calls_per_second_max=CONFIG.key_calls_per_second_max,
        in_flight_max=CONFIG.key_in_flight_max,
        operator_slots_percent_max=CONFIG.operator_slots_percent_max,
    )
