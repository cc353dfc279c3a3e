"""Channels over several connections, because a service limits the calls on one (`--connection-calls-max`).

A call goes over the first connection that has room, and a further one is opened when none has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

CALLS_MAX = 50
"""Calls at a time on one connection: half of what a service takes that is set up for callers it does not
trust. A service counts a call until it has cleared up after its answer. Where the next calls come in the
meantime, it refuses some of them.
"""
CONNECTIONS_MAX = 100
"""Beyond, connections share the calls evenly."""


class Connections:
    """The connections of a client, and how many calls each has."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        """`connect` makes a channel that shares its connection with no other."""
        self._connect = connect
        self._lock = threading.Lock()
        self._is_closed = False
        self.channels = [connect()]
        """gRPC's channels, one for each connection."""
        self.calls = [0]
        """Running calls of each."""

    @property
    def first(self) -> Any:
        """The channel that there is from the beginning."""
        return self.channels[0]

    def begin(self) -> int:
        """The number of the connection for a new call."""
        with self._lock:
            with_room = (number for number, calls in enumerate(self.calls) if calls < CALLS_MAX)
            number = next(with_room, -1)
            if number < 0:
                if len(self.channels) < CONNECTIONS_MAX and not self._is_closed:
                    self.channels.append(self._connect())
                    self.calls.append(0)
                number = min(range(len(self.calls)), key=self.calls.__getitem__)
            self.calls[number] += 1
        return number

    def end(self, number: int) -> None:
        """A call of that connection has ended."""
        with self._lock:
            self.calls[number] -= 1

    def close(self) -> list[Any]:
        """The channels, for their owner to close. No further one is made."""
        with self._lock:
            self._is_closed = True
            return list(self.channels)


class _Method:
    """A method, called over any of the connections."""

    def __init__(self, connections: Connections, make: Callable[[Any], Any]) -> None:
        """`make` makes what calls the method over a channel."""
        self._connections = connections
        self._make = make
        self._made: dict[int, Any] = {}

    def _over(self, number: int) -> Any:
        made = self._made.get(number)
        if made is None:
            made = self._made[number] = self._make(self._connections.channels[number])
        return made

    def _started(self, start: Callable[[Any], Any]) -> Any:
        """A call that runs on when it is returned."""
        number = self._connections.begin()
        try:
            call = start(self._over(number))
        except BaseException:
            self._connections.end(number)
            raise
        call.add_done_callback(lambda _: self._connections.end(number))
        return call

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Starts a call."""
        return self._started(lambda method: method(*arguments, **options))


class _BlockingMethod(_Method):
    """A method whose call returns its one response."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The response."""
        return self._ended(lambda method: method(*arguments, **options))

    def with_call(self, *arguments: Any, **options: Any) -> Any:
        """The response, and the call."""
        return self._ended(lambda method: method.with_call(*arguments, **options))

    def future(self, *arguments: Any, **options: Any) -> Any:
        """Starts a call."""
        return self._started(lambda method: method.future(*arguments, **options))

    def _ended(self, call: Callable[[Any], Any]) -> Any:
        number = self._connections.begin()
        try:
            return call(self._over(number))
        finally:
            self._connections.end(number)


class _Methods:
    """The four forms of methods, over connections."""

    one_response: type[_Method]

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """As gRPC's."""
        return self.one_response(
            self._connections, lambda channel: channel.unary_unary(*arguments, **options)
        )

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """As gRPC's."""
        return self.one_response(
            self._connections, lambda channel: channel.stream_unary(*arguments, **options)
        )

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """As gRPC's."""
        return _Method(self._connections, lambda channel: channel.unary_stream(*arguments, **options))

    def stream_stream(self, *arguments: Any, **options: Any) -> Any:
        """As gRPC's."""
        return _Method(self._connections, lambda channel: channel.stream_stream(*arguments, **options))


class SpreadChannel(_Methods, grpc.Channel):
    """A channel over several connections. What it says of its connection is about the first."""

    one_response = _BlockingMethod

    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        """As `grpc.Channel.subscribe`."""
        self._connections.first.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        """As `grpc.Channel.unsubscribe`."""
        self._connections.first.unsubscribe(callback)

    def close(self) -> None:
        """Closes the connections and cancels running calls."""
        for channel in self._connections.close():
            channel.close()

    def __enter__(self) -> SpreadChannel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncSpreadChannel(_Methods, aio.Channel):
    """As `SpreadChannel`, for asyncio."""

    one_response = _Method

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As `grpc.aio.Channel.get_state`."""
        state: grpc.ChannelConnectivity = self._connections.first.get_state(try_to_connect)
        return state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """As `grpc.aio.Channel.wait_for_state_change`."""
        await self._connections.first.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """As `grpc.aio.Channel.channel_ready`."""
        await self._connections.first.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """Closes the connections and cancels running calls, after a grace period in seconds."""
        for channel in self._connections.close():
            await channel.close(grace)

    async def __aenter__(self) -> AsyncSpreadChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
