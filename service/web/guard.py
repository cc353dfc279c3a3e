"""What is checked of a call before its request is read, and what becomes of errors on the way out.

A caller without a valid key uploads nothing. The gRPC server checks key and limits again, and counts the
call.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from connectrpc.interceptor import MetadataInterceptor
from grpc_health.v1 import health

from engine.errors import Aborted, InvalidInput, LimitExceeded, MilepostError
from service.auth.errors import Unauthenticated
from service.auth.gate import AUTHORIZATION, Gate
from service.auth.listening import is_loopback
from service.web.calls import PASSED_ON, Context
from service.web.errors import error_of, explained

Receive = Callable[[], Awaitable[Any]]
_READABLE = re.compile(r"[ -~]*")
"""What gRPC takes as the value of metadata."""


class Guard(MetadataInterceptor[bool]):
    """Checks calls, and gives every refusal its reason."""

    def __init__(self, gate: Gate, *, calls_max: int, streams_max: int, any_host: bool) -> None:
        """With `any_host` calls without a key are answered whatever host they name."""
        self._gate = gate
        self._calls_max = calls_max
        self._streams_max = streams_max
        self._any_host = any_host
        self._calls = 0
        self._streams = 0

    async def on_start(self, context: Context) -> bool:
        """Raises the refusal of a call."""
        is_stream = context.method.stream_type.name != "UNARY"
        try:
            self._check(context, is_stream)
        except MilepostError as error:
            raise error_of(error) from None
        self._calls += 1
        self._streams += is_stream
        return is_stream

    async def on_end(self, is_stream: bool, _context: Context, error: Exception | None, /) -> None:
        """Raises the error with its reason."""
        self._calls -= 1
        self._streams -= is_stream
        if error is not None:
            raise explained(error)

    def _check(self, context: Context, is_stream: bool) -> None:
        headers = context.request_headers
        for name in PASSED_ON:
            if not _READABLE.fullmatch(headers.get(name, "")):
                raise InvalidInput.one(name, "is a header with characters other than printable ASCII")
        if self._gate.required:
            if context.method.service_name != health.SERVICE_NAME:
                self._gate.identify([(AUTHORIZATION, headers.get(AUTHORIZATION, ""))])
        elif not self._any_host:
            _check_host(headers.get("host", ""))
        if self._calls >= self._calls_max:
            raise _too_many("calls", self._calls_max)
        if is_stream and self._streams >= self._streams_max:
            raise _too_many("streams", self._streams_max)


class TimedBody:
    """The `receive` of a request, whose body has to come in time."""

    def __init__(self, receive: Receive, limit_s: float, *, is_each: bool) -> None:
        """The limit is for the whole body; with `is_each` for every part of it."""
        self._receive = receive
        self._limit_s = limit_s
        self._is_each = is_each
        self._deadline = asyncio.get_running_loop().time() + limit_s
        self._is_complete = False

    async def __call__(self) -> Any:
        if self._is_complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._is_each:
            self._deadline = loop.time() + self._limit_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise error_of(
                Aborted(
                    f"no request came for {self._limit_s:g} seconds; call again when there is one",
                    reason="STREAM_IDLE",
                    metadata={"limit_s": f"{self._limit_s:g}"},
                )
            ) from None
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def _check_host(host: str) -> None:
    """Without keys only pages and programs of this machine may call. A page of another site whose name was
    pointed at this machine names that site here.
    """
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name != "localhost" and not (name and _is_address(name) and is_loopback(name)):
        raise Unauthenticated(
            "calls without an API key are answered for localhost and 127.0.0.1 only: create a key with"
            " `milepost init`, or pass --insecure-listen true"
        )


def _is_address(name: str) -> bool:
    """Whether the name needs no lookup."""
    return name.startswith("[") or name.replace(".", "").isdigit()


def _too_many(what: str, limit: int) -> LimitExceeded:
    return LimitExceeded(
        f"{limit} {what} over HTTP are already in flight", metadata={"limit": str(limit), "pool": "http"}
    )
