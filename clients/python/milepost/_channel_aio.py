"""The channel of the asyncio client: as `milepost._channel`, over `grpc.aio`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio

from milepost._channel import CallSettings, ChannelOptions, Metadata, WrappedCalls, is_opened
from milepost._connections import AsyncSpreadChannel, Connections
from milepost.errors import MilepostError, cancelled, from_rpc_error, lost

_LOST_STATUS = "Internal error from Core"
"""What grpc.aio reports when a service ends a call while a request is being written. The status that the
service gave is lost: https://github.com/grpc/grpc/issues/36066.
"""


def open_async_channel(to: ChannelOptions) -> aio.Channel:
    """A plain or a TLS channel, over as many connections as its calls need. It belongs to the running event
    loop.
    """
    return AsyncSpreadChannel(Connections(lambda: _connect(to)))


def _connect(to: ChannelOptions) -> aio.Channel:
    if to.credentials is None:
        return aio.insecure_channel(to.target, options=to.arguments())
    return aio.secure_channel(to.target, to.credentials, options=to.arguments())


class _OneResponse:
    def __init__(self, call: Any, settings: CallSettings) -> None:
        self._call = call
        self._settings = settings

    async def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        wait_for_ready: bool | None = None,
    ) -> Any:
        try:
            answer = await self._call(
                request, **self._settings.for_one_response(timeout, metadata, wait_for_ready)
            )
        except (grpc.RpcError, asyncio.CancelledError) as error:
            raise _translated(error) from error
        self._settings.answered.set()
        return answer


class _ManyResponses:
    def __init__(self, call: Any, settings: CallSettings) -> None:
        self._call = call
        self._settings = settings

    def __call__(
        self, request: Any = None, timeout: float | None = None, metadata: Metadata | None = None
    ) -> AsyncResponseStream:
        return AsyncResponseStream(
            self._call(request, **self._settings.for_many_responses(timeout, metadata))
        )


class AsyncResponseStream:
    """The responses of a stream, in order; `cancel` ends it."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._responses = aiter(call)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._responses)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            raise _translated(error) from error

    async def was_opened(self) -> bool:
        """Whether the service had opened the stream. Only for one that has ended: it waits."""
        return is_opened(await self._call.initial_metadata())

    def cancel(self) -> None:
        """Ends the stream; reading on raises `Cancelled`."""
        self._call.cancel()


class AsyncFriendlyChannel(WrappedCalls, aio.Channel):
    """Wraps a channel; see the module."""

    one_response = _OneResponse
    many_responses = _ManyResponses
    _channel: aio.Channel

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As `grpc.aio.Channel.get_state`."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As `grpc.aio.Channel.wait_for_state_change`."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As `grpc.aio.Channel.channel_ready`."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Closes the connection and cancels running calls, after a grace period in seconds."""
        await self._channel.close(grace)

    async def __aenter__(self) -> AsyncFriendlyChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _translated(error: grpc.RpcError | asyncio.CancelledError) -> MilepostError | asyncio.CancelledError:
    """The exception to raise. gRPC reports the end of a call that was cancelled as if the task had been."""
    if isinstance(error, grpc.RpcError):
        return lost() if error.details() == _LOST_STATUS else from_rpc_error(error)
    task = asyncio.current_task()
    return error if task is None or task.cancelling() else cancelled()
