"""The outermost application: what connectrpc would answer without a reason is refused here with one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf.descriptor import MethodDescriptor

from engine.errors import InvalidInput, MilepostError, Unsupported, Violation
from service.limits import METHOD_SHOWN_CHARACTERS_MAX
from service.web.errors import error_of, written
from service.web.guard import TimedBody

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Any, Send], Awaitable[None]]

OPENAPI_PATH = "/openapi.json"
OPENAPI_FILE = Path(__file__).with_name("openapi.json")
UNARY_TYPES = ("application/json", "application/proto")
STREAM_TYPES = ("application/connect+json", "application/connect+proto")
WEB_TYPES = ("application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json")
CONTENT_TYPE_SHOWN_CHARACTERS_MAX = 100
_TIMEOUT = re.compile(rb"[0-9]{1,10}")
_JSON = [(b"content-type", b"application/json")]


class _WrongForm(InvalidInput):
    """The request has a form that the method does not take."""


class Front:
    """Answers what is no call of a method, and passes on the rest within its limits of time."""

    def __init__(
        self,
        application: App,
        methods: Mapping[str, MethodDescriptor],
        *,
        message_s_max: float,
        stream_idle_s: float,
    ) -> None:
        self._application = application
        self._methods = methods
        self._message_s_max = message_s_max
        self._stream_idle_s = stream_idle_s
        self._openapi = OPENAPI_FILE.read_bytes()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        path = scope["path"]
        if path == OPENAPI_PATH and scope["method"] in ("GET", "HEAD"):
            await _answer(send, HTTPStatus.OK, self._openapi)
            return
        method = self._methods.get(path)
        try:
            if method is None:
                raise _unknown(path)
            _check(scope, method)
        except _WrongForm as error:
            await _answer(send, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, written(error_of(error)))
            return
        except MilepostError as error:
            status = HTTPStatus.NOT_FOUND if method is None else HTTPStatus.BAD_REQUEST
            await _answer(send, status, written(error_of(error)))
            return
        if method.client_streaming:
            body = TimedBody(receive, self._stream_idle_s, is_each=True)
        else:
            body = TimedBody(receive, self._message_s_max, is_each=False)
        await self._application(scope, body, send)


def _check(scope: Scope, method: MethodDescriptor) -> None:
    """Raises what connectrpc refuses before it knows how to write a refusal."""
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    is_stream = method.client_streaming or method.server_streaming
    taken = (*(STREAM_TYPES if is_stream else UNARY_TYPES), *WEB_TYPES)
    if scope["method"] == "POST" and content_type not in taken:
        shown = content_type[:CONTENT_TYPE_SHOWN_CHARACTERS_MAX]
        raise _WrongForm([Violation("content-type", f"is {shown!r}; this method takes {', '.join(taken)}")])
    timeout = headers.get(b"connect-timeout-ms")
    if timeout is not None and not _TIMEOUT.fullmatch(timeout):
        raise InvalidInput.one("connect-timeout-ms", "must be milliseconds, at most ten digits")
    if headers.get(b"connect-protocol-version", b"1") != b"1":
        raise InvalidInput.one("connect-protocol-version", "must be 1")
    for name, value in headers.items():
        if not value.isascii():
            raise InvalidInput.one(
                name.decode("latin-1"), "is a header with characters other than printable ASCII"
            )


def _unknown(path: str) -> Unsupported:
    shown = path[:METHOD_SHOWN_CHARACTERS_MAX]
    return Unsupported(
        f"the server has no method {shown}", reason="UNKNOWN_METHOD", metadata={"method": shown}
    )


async def _answer(send: Send, status: HTTPStatus, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status.value, "headers": _JSON})
    await send({"type": "http.response.body", "body": body, "more_body": False})
