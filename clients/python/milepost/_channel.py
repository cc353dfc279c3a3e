"""Channels whose calls have a timeout, carry the API key, and raise `milepost.errors`.

Stubs built on them keep their generated types; only the way calls are made differs. This module has what both
clients share, and the channel of the synchronous one; `milepost._channel_aio` has the other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import grpc

from milepost._connections import Connections, SpreadChannel
from milepost.errors import from_rpc_error

KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
RECONNECT_PAUSE_MS_MAX = 2_000
"""Longest pause between connections; gRPC's own is two minutes. Until it is over calls fail, though the
service may be back.
"""
OPENED_KEY = "milepost-stream"
"""Metadata that a service sends when a watch is open, before there is anything to say."""
API_KEY_VARIABLE = "MILEPOST_API_KEY"
SERVICE_CONFIG_FILE = "service_config.json"

Metadata = Sequence[tuple[str, str | bytes]]


def service_config() -> str:
    """The published retry policy, as gRPC service config JSON: reads wait for a connection and are retried
    when UNAVAILABLE.
    """
    return files("milepost").joinpath(SERVICE_CONFIG_FILE).read_text(encoding="utf-8")


def fault_of_target(target: str) -> str:
    """What is wrong with an address; empty when nothing is."""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        return ""
    return f"the address of a service is {rest.rstrip('/') or 'HOST:PORT'}, without {scheme}://"


@dataclass(frozen=True)
class ChannelOptions:
    """Where a service is, and how to connect to it."""

    target: str
    credentials: grpc.ChannelCredentials | None = None
    """TLS; None = plain text."""
    options: Sequence[tuple[str, Any]] = ()
    """gRPC's channel arguments. They override those of the client."""

    def __post_init__(self) -> None:
        """Raises ValueError for a URL: gRPC would look for a host of that name."""
        if fault := fault_of_target(self.target):
            raise ValueError(fault)

    def arguments(self) -> list[tuple[str, Any]]:
        """The channel arguments: retry policy, keepalive and the caller's."""
        defaults = {
            "grpc.service_config": service_config(),
            "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
            "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
            "grpc.max_reconnect_backoff_ms": RECONNECT_PAUSE_MS_MAX,
            # Channels that are alike would share one connection, and its limit of calls.
            "grpc.use_local_subchannel_pool": 1,
        }
        return list((defaults | dict(self.options)).items())


@dataclass(frozen=True)
class CallSettings:
    """Defaults for every call."""

    timeout_seconds: float
    api_key: str | None = None
    answered: threading.Event = field(default_factory=threading.Event)
    """Set once the service has answered a call. The address is then right, and an outage passes."""

    def for_one_response(
        self, timeout: float | None, metadata: Metadata | None, wait_for_ready: bool | None = None
    ) -> dict[str, Any]:
        """The arguments of a call with one response, from what its caller asks for.

        Without `wait_for_ready` the published policy decides, by which reads wait for a connection until
        their timeout. Before the first answer they fail at once: the address may be wrong.
        """
        if wait_for_ready is None and not self.answered.is_set():
            wait_for_ready = False
        return {
            "timeout": self.timeout_seconds if timeout is None else timeout,
            "metadata": self._with_key(metadata),
            "wait_for_ready": wait_for_ready,
        }

    def for_many_responses(self, timeout: float | None, metadata: Metadata | None) -> dict[str, Any]:
        """The arguments of a call with many responses. It never waits for a connection, because it has no
        timeout unless the caller sets one.
        """
        return {"timeout": timeout, "metadata": self._with_key(metadata), "wait_for_ready": False}

    def _with_key(self, metadata: Metadata | None) -> Metadata:
        own = () if self.api_key is None else (("authorization", f"Bearer {self.api_key}"),)
        return (*own, *(metadata or ()))


def chosen_key(api_key: str | None) -> str | None:
    """The key to send: the caller's, else the variable's; "" = none."""
    return (os.environ.get(API_KEY_VARIABLE) if api_key is None else api_key) or None


def is_opened(metadata: Any) -> bool:
    """Whether the metadata of a stream say that the service has opened it. Pairs, of another class in each of
    gRPC's two clients.
    """
    return any(key == OPENED_KEY for key, _ in metadata or ())


def open_channel(to: ChannelOptions) -> grpc.Channel:
    """A plain or a TLS channel, over as many connections as its calls need."""
    return SpreadChannel(Connections(lambda: _connect(to)))


def _connect(to: ChannelOptions) -> grpc.Channel:
    if to.credentials is None:
        return grpc.insecure_channel(to.target, options=to.arguments())
    return grpc.secure_channel(to.target, to.credentials, options=to.arguments())


class WrappedCalls:
    """The calls of a channel, each wrapped in `one_response` or `many_responses`."""

    one_response: Callable[[Any, CallSettings], Any]
    many_responses: Callable[[Any, CallSettings], Any]

    def __init__(self, channel: Any, settings: CallSettings) -> None:
        self._channel = channel
        self._settings = settings

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call with one request and one response."""
        return self.one_response(self._channel.unary_unary(*arguments, **options), self._settings)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call with many requests and one response."""
        return self.one_response(self._channel.stream_unary(*arguments, **options), self._settings)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """A call with one request and many responses; without an explicit timeout it has none."""
        return self.many_responses(self._channel.unary_stream(*arguments, **options), self._settings)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """A call with many requests and many responses; without an explicit timeout it has none."""
        return self.many_responses(self._channel.stream_stream(*arguments, **options), self._settings)


class _OneResponse:
    def __init__(self, call: Any, settings: CallSettings) -> None:
        self._call = call
        self._settings = settings

    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> Any:
        try:
            answer = self._call(request, **self._settings.for_one_response(timeout, metadata, wait_for_ready))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        self._settings.answered.set()
        return answer

    def future(self, request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        """Starts the call; the future is gRPC's own and raises gRPC's own errors."""
        return self._call.future(request, **self._settings.for_one_response(timeout, metadata))


class _ManyResponses:
    def __init__(self, call: Any, settings: CallSettings) -> None:
        self._call = call
        self._settings = settings

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream:
        return ResponseStream(self._call(request, **self._settings.for_many_responses(timeout, metadata)))


class ResponseStream:
    """The responses of a stream, in order; `cancel` ends it."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def was_opened(self) -> bool:
        """Whether the service had opened the stream. Only for one that has ended: it waits."""
        return is_opened(self._call.initial_metadata())

    def cancel(self) -> None:
        """Ends the stream; reading on raises `Cancelled`."""
        self._call.cancel()


class FriendlyChannel(WrappedCalls, grpc.Channel):
    """Wraps a channel; see the module."""

    one_response = _OneResponse
    many_responses = _ManyResponses
    _channel: grpc.Channel

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False
    ) -> None:
        """As `grpc.Channel.subscribe`."""
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As `grpc.Channel.unsubscribe`."""
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        """Closes the connection and cancels running calls."""
        self._channel.close()

    def __enter__(self) -> FriendlyChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
