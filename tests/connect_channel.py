"""A channel that speaks Connect over HTTP, in the place of one of gRPC. It follows the description of the
protocol, with the standard library alone.
"""

from __future__ import annotations

import base64
import http.client
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import code_pb2, status_pb2

END_OF_STREAM = 0b10
HEADER = struct.Struct(">BI")

Metadata = Sequence[tuple[str, str]]


class ConnectError(grpc.RpcError, grpc.Call):
    """A refusal, as gRPC gives one."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error)
        self.error = error
        name = {"canceled": "CANCELLED"}.get(error["code"], error["code"].upper())
        self._code = grpc.StatusCode[name]

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return str(self.error.get("message", ""))

    def trailing_metadata(self) -> Any:
        status = status_pb2.Status(code=code_pb2.Code.Value(self._code.name), message=self.details())
        for detail in self.error.get("details", ()):
            value = base64.b64decode(detail["value"] + "==")
            status.details.add(type_url=f"type.googleapis.com/{detail['type']}", value=value)
        return (("grpc-status-details-bin", status.SerializeToString()),)

    def initial_metadata(self) -> Any:
        raise NotImplementedError

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> Any:
        return None

    def cancel(self) -> bool:
        return False

    def add_callback(self, callback: Any) -> bool:
        raise NotImplementedError


class Answers(Iterator[Message]):
    """The answers of a stream."""

    def __init__(self, connection: http.client.HTTPConnection, kind: type[Message]) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self._kind = kind
        if self._response.status != http.client.OK:
            raise ConnectError(json.loads(self._response.read()))

    def __next__(self) -> Message:
        flags, length = HEADER.unpack(self._response.read(HEADER.size))
        data = self._response.read(length)
        if not flags & END_OF_STREAM:
            return json_format.Parse(data, self._kind())
        self._connection.close()
        end = json.loads(data)
        if "error" in end:
            raise ConnectError(end["error"])
        raise StopIteration

    def cancel(self) -> None:
        """Ends the call."""
        self._response.close()
        self._connection.close()


class ConnectChannel:
    """Calls methods over HTTP with JSON."""

    def __init__(self, address: str) -> None:
        self._address = address

    def unary_unary(self, path: str, **forms: Any) -> Callable[..., Message]:
        def call(request: Message, *, timeout: float, metadata: Metadata = ()) -> Message:
            body = json_format.MessageToJson(request).encode()
            connection = self._send(path, "application/json", body, timeout, metadata)
            response = connection.getresponse()
            data = response.read()
            connection.close()
            if response.status != http.client.OK:
                raise ConnectError(json.loads(data))
            return json_format.Parse(data, _kind(forms)())

        return call

    def unary_stream(self, path: str, **forms: Any) -> Callable[..., Answers]:
        def call(request: Message, *, timeout: float, metadata: Metadata = ()) -> Answers:
            return self._stream(path, [request], timeout, metadata, _kind(forms))

        return call

    def stream_stream(self, path: str, **forms: Any) -> Callable[..., Answers]:
        def call(requests: Iterable[Message], *, timeout: float, metadata: Metadata = ()) -> Answers:
            return self._stream(path, requests, timeout, metadata, _kind(forms))

        return call

    def stream_unary(self, path: str, **forms: Any) -> Callable[..., Message]:
        def call(requests: Iterable[Message], *, timeout: float, metadata: Metadata = ()) -> Message:
            [answer] = self._stream(path, requests, timeout, metadata, _kind(forms))
            return answer

        return call

    def _stream(
        self, path: str, requests: Iterable[Message], timeout: float, metadata: Metadata, kind: type[Message]
    ) -> Answers:
        bodies = (json_format.MessageToJson(request).encode() for request in requests)
        body = b"".join(HEADER.pack(0, len(each)) + each for each in bodies)
        return Answers(self._send(path, "application/connect+json", body, timeout, metadata), kind)

    def _send(
        self, path: str, content_type: str, body: bytes, timeout: float, metadata: Metadata
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(self._address, timeout=timeout)
        headers = {"content-type": content_type, "connect-timeout-ms": str(round(timeout * 1_000))}
        connection.request("POST", path, body, headers | dict(metadata))
        return connection


def _kind(forms: dict[str, Any]) -> type[Message]:
    """The kind of message that a stub's deserialiser reads."""
    kind: type[Message] = forms["response_deserializer"].__self__
    return kind
