"""The outermost application: what connectrpc would answer without a reason is refused here with one."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn, TypeAlias
from urllib.parse import parse_qs

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from engine.errors import InvalidInput, MilepostError, Unsupported, Violation
from service.auth.gate import AUTHORIZATION, Gate
from service.errors import code_of
from service.limits import METHOD_SHOWN_CHARACTERS_MAX
from service.web.errors import error_of, written
from service.web.request_body import Bodies, TimedBody

Scope: TypeAlias = MutableMapping[str, Any]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Any, Send], Awaitable[None]]

OPENAPI_PATH = "/openapi.json"
OPENAPI_FILE = Path(__file__).with_name("openapi.json")
UNARY_TYPES = ("application/json", "application/proto")
STREAM_TYPES = ("application/connect+json", "application/connect+proto")
WEB_TYPES = ("application/grpc-web", "application/grpc-web+proto", "application/grpc-web+json")
QUERY_ENCODINGS = ("json", "proto")
CONTENT_TYPE_SHOWN_CHARACTERS_MAX = 100
_TIMEOUT = re.compile(rb"[0-9]{1,10}")
_JSON = [(b"content-type", b"application/json")]
_STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_FOUND,
}
"""What is refused here: a faulty header, a missing key, too many calls, an unknown method."""


class _WrongForm(InvalidInput):
    """The request has a form that the method does not take."""


class _WrongVerb(InvalidInput):
    """The method is called with another verb of HTTP. `allowed` are those that it takes."""

    def __init__(self, verb: str, allowed: str) -> None:
        super().__init__([Violation("method", f"is {verb}; this path takes {allowed}")])
        self.allowed = allowed


class Front:
    """Answers what is no call of a method, and passes on the rest within its limits of time."""

    def __init__(
        self,
        application: App,
        methods: Mapping[str, MethodDescriptor],
        gate: Gate,
        *,
        message_s_max: float,
        stream_idle_s: float,
    ) -> None:
        self._application = application
        self._methods = methods
        self._gate = gate
        self._message_s_max = message_s_max
        self._stream_idle_s = stream_idle_s
        self._openapi = OPENAPI_FILE.read_bytes()
        self.bodies = Bodies()
        """The bodies that are awaited."""

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answers a request, as ASGI has it."""
        path = scope["path"]
        if path == OPENAPI_PATH and scope["method"] in ("GET", "HEAD"):
            await _answer(send, HTTPStatus.OK, self._openapi)
            return
        method = self._methods.get(path)
        try:
            if method is None:
                self._refuse_unknown(path, scope)
            _check(scope, method)
        except MilepostError as error:
            await _refuse(send, error)
            return
        if method.client_streaming:
            body = TimedBody(receive, self.bodies, self._stream_idle_s, is_each=True)
        else:
            body = TimedBody(receive, self.bodies, self._message_s_max, is_each=False)
        await self._application(scope, body, send)

    def _refuse_unknown(self, path: str, scope: Scope) -> NoReturn:
        """Raises the refusal of a path that does not exist. Only callers with a key are told so."""
        given = dict(scope["headers"]).get(AUTHORIZATION.encode(), b"").decode("latin-1")
        self._gate.admit_unknown(path, [(AUTHORIZATION, given)] if given else [])
        raise _unknown(path)


def _check(scope: Scope, method: MethodDescriptor) -> None:
    """Raises what connectrpc refuses before it knows how to write a refusal."""
    verbs = ("GET", "POST") if _is_read(method) else ("POST",)
    if scope["method"] not in verbs:
        raise _WrongVerb(scope["method"], ", ".join(verbs))
    if scope["method"] == "GET":
        _check_query(scope["query_string"])
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


def _check_query(query_string: bytes) -> None:
    query = parse_qs(query_string.decode("latin-1"), keep_blank_values=True)
    encoding = query.get("encoding", [""])[-1]
    if encoding not in QUERY_ENCODINGS:
        shown = encoding[:CONTENT_TYPE_SHOWN_CHARACTERS_MAX]
        raise _WrongForm([Violation("encoding", f"is {shown!r}; must be {' or '.join(QUERY_ENCODINGS)}")])
    if query.get("connect", ["v1"])[-1] != "v1":
        raise InvalidInput.one("connect", "must be v1")


def _unknown(path: str) -> Unsupported:
    shown = path[:METHOD_SHOWN_CHARACTERS_MAX]
    return Unsupported(
        f"the server has no method {shown}", reason="UNKNOWN_METHOD", metadata={"method": shown}
    )


def _is_read(method: MethodDescriptor) -> bool:
    """Whether the method is called with GET too."""
    is_stream = method.client_streaming or method.server_streaming
    return not is_stream and method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS


async def _refuse(send: Send, error: MilepostError) -> None:
    headers = list(_JSON)
    match error:
        case _WrongVerb():
            status = HTTPStatus.METHOD_NOT_ALLOWED
            headers.append((b"allow", error.allowed.encode()))
        case _WrongForm():
            status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        case _:
            status = _STATUSES[code_of(error)]
    await _answer(send, status, written(error_of(error)), headers)


async def _answer(
    send: Send, status: HTTPStatus, body: bytes, headers: list[tuple[bytes, bytes]] = _JSON
) -> None:
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
