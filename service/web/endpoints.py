"""One endpoint for each method of the contract, and for health checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.server import ConnectASGIApplication, Endpoint
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from grpc_health.v1 import health

from engine.errors import MilepostError
from service.limits import RECEIVE_BYTES_MAX
from service.server import SERVICE_NAMES
from service.web.bodies import CODECS, Body, Converter
from service.web.calls import Calls, Context
from service.web.errors import error_of
from service.web.guard import Guard

_FORMS = {
    (False, False): StreamType.UNARY,
    (False, True): StreamType.SERVER_STREAM,
    (True, False): StreamType.CLIENT_STREAM,
    (True, True): StreamType.BIDI_STREAM,
}
_IDEMPOTENCY = {
    MethodOptions.NO_SIDE_EFFECTS: IdempotencyLevel.NO_SIDE_EFFECTS,
    MethodOptions.IDEMPOTENT: IdempotencyLevel.IDEMPOTENT,
}


class Application(ConnectASGIApplication[None]):
    """The ASGI application of the contract."""

    def __init__(self, calls: Calls, converter: Converter, guard: Guard) -> None:
        endpoints = endpoints_of(calls, converter)
        super().__init__(
            service=None,
            endpoints=lambda _: endpoints,
            interceptors=[guard],
            read_max_bytes=RECEIVE_BYTES_MAX,
            codecs=CODECS,
        )

    @property
    def path(self) -> str:
        """The endpoints have whole paths."""
        return ""


def methods() -> dict[str, MethodDescriptor]:
    """Every method that is served over HTTP, by its path."""
    return {
        f"/{service.full_name}/{method.name}": method
        for service in map(descriptor_pool.Default().FindServiceByName, (*SERVICE_NAMES, health.SERVICE_NAME))
        for method in service.methods
    }


def endpoints_of(calls: Calls, converter: Converter) -> Mapping[str, Any]:
    """The endpoint of each path."""
    return {path: _Method(path, method, calls, converter).endpoint() for path, method in methods().items()}


class _Method:
    """A method, and how it is called."""

    def __init__(self, path: str, method: MethodDescriptor, calls: Calls, converter: Converter) -> None:
        self._path = path
        self._calls = calls
        self._converter = converter
        self._request: type[Message] = message_factory.GetMessageClass(method.input_type)
        self._answer: type[Message] = message_factory.GetMessageClass(method.output_type)
        self._info: MethodInfo[Any, bytes] = MethodInfo(
            name=method.name,
            service_name=method.containing_service.full_name,
            input=Body,
            output=bytes,
            idempotency_level=_IDEMPOTENCY.get(
                method.GetOptions().idempotency_level, IdempotencyLevel.UNKNOWN
            ),
            stream_type=_FORMS[method.client_streaming, method.server_streaming],
        )

    def endpoint(self) -> Any:
        """The endpoint."""
        match self._info.stream_type:
            case StreamType.UNARY:
                return Endpoint.unary(self._info, self._one)
            case StreamType.SERVER_STREAM:
                return Endpoint.server_stream(self._info, self._answers)
            case StreamType.CLIENT_STREAM:
                return Endpoint.client_stream(self._info, self._requests)
            case StreamType.BIDI_STREAM:
                return Endpoint.bidi_stream(self._info, self._both)

    async def _one(self, body: Body, context: Context) -> bytes:
        request = await self._read(body)
        answer = await self._calls.one(self._path, request, context)
        return await self._converter.answer(answer, self._answer, as_json=body.is_json)

    async def _answers(self, body: Body, context: Context) -> AsyncIterator[bytes]:
        async def only() -> AsyncIterator[Body]:
            yield body

        async for answer in self._both(only(), context):
            yield answer

    async def _requests(self, bodies: AsyncIterator[Body], context: Context) -> bytes:
        last = b""
        async for answer in self._both(bodies, context):
            last = answer
        return last

    async def _both(self, bodies: AsyncIterator[Body], context: Context) -> AsyncIterator[bytes]:
        as_json = _is_json(context)

        async def requests() -> AsyncIterator[bytes]:
            async for body in bodies:
                yield await self._read(body)

        answers = self._calls.stream(self._path, requests(), context)
        try:
            async for answer in answers:
                yield await self._converter.answer(answer, self._answer, as_json=as_json)
        finally:
            await answers.aclose()

    async def _read(self, body: Body) -> bytes:
        try:
            return await self._converter.request(body, self._path, self._request)
        except MilepostError as error:
            raise error_of(error) from None


def _is_json(context: Context) -> bool:
    content_type: str = context.request_headers.get("content-type", "")
    return content_type.partition(";")[0].strip().lower().endswith("json")
