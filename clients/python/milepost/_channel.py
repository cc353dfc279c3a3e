"""A channel whose calls have a timeout, carry the API key, and raise `milepost.errors`.

Stubs built on it keep their generated types: only how a call is made differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import grpc

from milepost.errors import from_rpc_error

KEEPALIVE_TIME_MS = 30_000
KEEPALIVE_TIMEOUT_MS = 10_000
SERVICE_CONFIG_FILE = "service_config.json"

Metadata = Sequence[tuple[str, str | bytes]]


def service_config() -> str:
    """The published retry policy, as gRPC service config JSON: reads are tried again when UNAVAILABLE."""
    return files("milepost").joinpath(SERVICE_CONFIG_FILE).read_text(encoding="utf-8")


def open_channel(
    target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
) -> grpc.Channel:
    """A plain or a TLS channel with the retry policy and keepalive; `options` of the caller win."""
    defaults = {
        "grpc.service_config": service_config(),
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
    }
    merged = list((defaults | dict(options)).items())
    if credentials is None:
        return grpc.insecure_channel(target, options=merged)
    return grpc.secure_channel(target, credentials, options=merged)


class CallSettings:
    """What every call gets unless it says otherwise."""

    def __init__(self, timeout_seconds: float, api_key: str | None) -> None:
        self.timeout_seconds = timeout_seconds
        self.metadata: Metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)


class FriendlyChannel(grpc.Channel):
    """Wraps a channel; see the module."""

    def __init__(self, channel: grpc.Channel, settings: CallSettings) -> None:
        self._channel = channel
        self._settings = settings

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call with one request and one response."""
        return _OneResponse(self._channel.unary_unary(*arguments, **options), self._settings)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """A call with many requests and one response."""
        return _OneResponse(self._channel.stream_unary(*arguments, **options), self._settings)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """A call with one request and many responses; without a timeout of its own it has none."""
        return _ManyResponses(self._channel.unary_stream(*arguments, **options), self._settings)

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """A call with many requests and many responses; without a timeout of its own it has none."""
        return _ManyResponses(self._channel.stream_stream(*arguments, **options), self._settings)

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
            return self._call(
                request,
                timeout=self._settings.timeout_seconds if timeout is None else timeout,
                metadata=(*self._settings.metadata, *(metadata or ())),
                wait_for_ready=wait_for_ready,
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def future(self, request: Any, timeout: float | None = None, metadata: Metadata | None = None) -> Any:
        """Starts the call; the future is gRPC's own and raises gRPC's own errors."""
        return self._call.future(
            request,
            timeout=self._settings.timeout_seconds if timeout is None else timeout,
            metadata=(*self._settings.metadata, *(metadata or ())),
        )


class _ManyResponses:
    def __init__(self, call: Any, settings: CallSettings) -> None:
        self._call = call
        self._settings = settings

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: Metadata | None = None
    ) -> ResponseStream:
        call = self._call(request, timeout=timeout, metadata=(*self._settings.metadata, *(metadata or ())))
        return ResponseStream(call)


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

    def cancel(self) -> None:
        """Ends the stream; reading on raises `Cancelled`."""
        self._call.cancel()
