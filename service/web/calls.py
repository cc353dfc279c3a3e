"""Calls of the gRPC server, for callers over HTTP: bytes in, bytes out, with the caller's key and deadline.

The service itself answers, so that keys, limits, the log and the metrics of a call are those of gRPC. A call
ends when its caller leaves.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from grpc_status import rpc_status

from engine.errors import DeadlineExceeded, StoreUnavailable
from service.methods import HEALTH_PREFIX
from service.peers import PEER_KEY
from service.telemetry.request_ids import REQUEST_ID
from service.web.errors import code_named, error_of, error_of_status

PASSED_ON = ("authorization", REQUEST_ID, "traceparent", "tracestate", "baggage")
"""Headers that are metadata of the call."""
REFUSAL_S_MAX = 0.05
REFUSAL_SHARE = 0.1
"""How much of its time a call keeps for the way back of its refusal, in seconds and as a share."""

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # The caller decides whether to repeat a call.
    ("grpc.enable_retries", 0),
    # A service in the same process must not share the connection.
    ("grpc.use_local_subchannel_pool", 1),
)
_OWN_METADATA = "grpc-"

Context = RequestContext[Any, Any]


class Calls:
    """Calls the gRPC server behind a socket."""

    def __init__(self, socket: Path, streams_max: int) -> None:
        """Each stream takes a thread, while it is open."""
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=_OPTIONS)
        self._threads = ThreadPoolExecutor(streams_max, "web-stream")
        self._open: Any = None

    def start(self) -> None:
        """Connects. gRPC has a thread for a channel while it has a call, and starting one takes longer than
        a call: one that does not end keeps it.
        """
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(
            f"{HEALTH_PREFIX}Watch"
        )
        self._open = watch(b"", wait_for_ready=True)

    async def one(self, method: str, request: bytes, context: Context) -> bytes:
        """The answer to a call with one request and one answer. Raises ConnectError."""
        make: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
        call: Any = make.future(request, timeout=_seconds_left(context), metadata=_metadata_of(context))
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        call.add_done_callback(lambda _: _call_soon(loop, ended.set))
        try:
            await ended.wait()
        finally:
            call.cancel()
        if call.code() is not grpc.StatusCode.OK:
            raise _refused(call, context)
        _hand_back(call, context)
        answer: bytes = call.result()
        return answer

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes, None]:
        """The answers to a call of any form. Raises ConnectError."""
        loop = asyncio.get_running_loop()
        handed_on = _Requests(requests, loop)
        make: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(method)
        call: Any = make(handed_on, timeout=_seconds_left(context), metadata=_metadata_of(context))
        handed_on.belong_to(call)
        try:
            while True:
                try:
                    answer = await loop.run_in_executor(self._threads, partial(next, call, None))
                except grpc.RpcError:
                    raise handed_on.fault or _refused(call, context) from None
                if answer is None:
                    break
                yield answer
            _hand_back(call, context)
        finally:
            call.cancel()
            await handed_on.close()

    def close(self) -> None:
        """Ends the connection to the server, and the calls with it."""
        if self._open is not None:
            self._open.cancel()
        self._channel.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Requests(Iterator[bytes]):
    """The requests of a stream, as the thread that sends them takes them: one at a time, so that a caller is
    read no faster than the server takes what it sends. A caller that breaks off ends the call.
    """

    def __init__(self, requests: AsyncIterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        self._requests = requests
        self._loop = loop
        self._call: Any = None
        self._has_call = threading.Event()
        self._awaited: asyncio.Task[bytes | None] | None = None
        self._is_closed = False
        self.fault: ConnectError | None = None
        """What ended the requests, unless they came to their end."""

    def belong_to(self, call: Any) -> None:
        """The call that hands the requests on."""
        self._call = call
        self._has_call.set()

    def __next__(self) -> bytes:
        try:
            request = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
        except BaseException as error:
            self.fault = error if isinstance(error, ConnectError) else None
            self._has_call.wait()
            self._call.cancel()
            raise StopIteration from None
        if request is None:
            raise StopIteration
        return request

    async def close(self) -> None:
        """Takes no more requests, and no longer waits for one."""
        self._is_closed = True
        if self._awaited is not None:
            self._awaited.cancel()
            await asyncio.wait([self._awaited])

    async def _next(self) -> bytes | None:
        if self._is_closed:
            return None
        self._awaited = asyncio.ensure_future(self._following())
        return await self._awaited

    async def _following(self) -> bytes | None:
        return await anext(self._requests, None)


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def _refused(call: Any, context: Context) -> ConnectError:
    _hand_back(call, context)
    status = rpc_status.from_call(call)
    if status is not None:
        return error_of_status(status)
    code = call.code()
    # The caller is there: what was cancelled was cancelled by the end of the server.
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return error_of(StoreUnavailable("the service is starting or stopping; try again"))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return error_of(DeadlineExceeded("the deadline passed before the call was answered"))
    return ConnectError(code_named(code.name), call.details() or "")


def _hand_back(call: Any, context: Context) -> None:
    for key, value in call.trailing_metadata() or ():
        if not key.startswith(_OWN_METADATA) and isinstance(value, str):
            context.response_trailers.add(key, value)


def _seconds_left(context: Context) -> float | None:
    if context.timeout_ms is None:
        return None
    left_s = context.timeout_ms / 1_000
    return max(0.0, left_s - min(REFUSAL_S_MAX, REFUSAL_SHARE * left_s))


def _metadata_of(context: Context) -> tuple[tuple[str, str], ...]:
    headers = context.request_headers
    passed_on = ((name, headers[name]) for name in PASSED_ON if name in headers)
    return (*passed_on, (PEER_KEY, _peer(context.client_address)))


def _peer(address: str | None) -> str:
    """The caller's address as gRPC writes one."""
    host, _, port = (address or "unknown:0").rpartition(":")
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
