"""What is checked of a call before its request is read, and what becomes of errors on the way out.

A caller without a valid key uploads nothing. The gRPC server checks key and limits again, and counts the
call.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from connectrpc.interceptor import MetadataInterceptor
from grpc_health.v1 import health

from engine.errors import InvalidInput, MilepostError
from service.auth.errors import Unauthenticated
from service.auth.gate import AUTHORIZATION, Gate
from service.auth.listening import is_loopback
from service.slots import Holder, Slots
from service.web.calls import PASSED_ON, Context
from service.web.errors import error_of, explained

_READABLE = re.compile(r"[ -~]*")
"""What gRPC takes as the value of metadata."""


class _Held(NamedTuple):
    """The slots that a call holds."""

    pools: list[Slots]
    holder: Holder | None


class Guard(MetadataInterceptor[_Held]):
    """Checks calls, and gives every refusal its reason."""

    def __init__(self, gate: Gate, *, calls_max: int, streams_max: int, any_host: bool) -> None:
        """With `any_host` calls without a key are answered whatever host they name."""
        self._gate = gate
        self._calls = Slots("http", calls_max)
        self._streams = Slots("http-stream", streams_max)
        self._any_host = any_host

    async def on_start(self, context: Context) -> _Held:
        """Raises the refusal of a call."""
        try:
            holder = self._admit(context)
            pools = [self._calls]
            if context.method.stream_type.name != "UNARY":
                pools.append(self._streams)
            for pool in pools:
                pool.check(holder)
        except MilepostError as error:
            raise error_of(error) from None
        for pool in pools:
            pool.take(holder)
        return _Held(pools, holder)

    async def on_end(self, held: _Held, _context: Context, error: Exception | None, /) -> None:
        """Raises the error with its reason."""
        for pool in held.pools:
            pool.give_back(held.holder)
        if error is not None:
            raise explained(error)

    def _admit(self, context: Context) -> Holder | None:
        headers = context.request_headers
        for name in PASSED_ON:
            if not _READABLE.fullmatch(headers.get(name, "")):
                raise InvalidInput.one(name, "is a header with characters other than printable ASCII")
        if self._gate.required:
            if context.method.service_name != health.SERVICE_NAME:
                return self._gate.identify([(AUTHORIZATION, headers.get(AUTHORIZATION, ""))]).holder
        elif not self._any_host:
            _check_host(headers.get("host", ""))
        return None


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
