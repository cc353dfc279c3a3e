"""Requests and answers as bytes: JSON is converted, Protocol Buffers pass as they are.

connectrpc parses a request with a codec, in the thread that serves every connection. The codecs here leave
the bytes as they are. What is large is converted in a few threads of its own: one caller's megabytes hold up
no other caller, and few are in memory at a time.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from connectrpc.codec import Codec
from google.protobuf import json_format
from google.protobuf.message import Message

from engine.errors import InvalidInput
from engine.limits import MESSAGE_ELEMENTS_MAX, Limits
from service.methods import INGEST_METHODS
from service.reading import too_deep, too_large
from service.web.json_faults import Fault, parse

CONVERSION_THREADS = 2
LARGE_BYTES = 32 * 1024
"""From this size on a message is converted in a thread: that takes milliseconds."""


class Body(NamedTuple):
    """The bytes of a request."""

    data: bytes
    is_json: bool


class Passing(Codec[bytes, Body]):
    """A codec that leaves bytes as they are, and says which form they have."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        """Name of the form, as content types have it."""
        return self._name

    def encode(self, message: bytes) -> bytes:
        """The bytes."""
        return message

    def decode(self, data: bytes | bytearray, message_class: type[Body]) -> Body:
        """The bytes, and their form."""
        return message_class(bytes(data), self._name == "json")


CODECS = (Passing("proto"), Passing("json"))


class Converter:
    """Converts the messages of methods."""

    def __init__(self, message_bytes_max: int, limits: Limits) -> None:
        self._message_bytes_max = message_bytes_max
        self._limits = limits
        self._threads = ThreadPoolExecutor(CONVERSION_THREADS, "web-json")

    async def request(self, body: Body, method: str, kind: type[Message]) -> bytes:
        """The request as Protocol Buffers. Raises InvalidInput."""
        if not body.is_json:
            return body.data
        if len(body.data) < LARGE_BYTES:
            return self._read(body.data, method, kind)
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._read, body.data, method, kind
        )

    async def answer(self, data: bytes, kind: type[Message], *, as_json: bool) -> bytes:
        """The answer in the form of its request."""
        if not as_json:
            return data
        if len(data) < LARGE_BYTES:
            return _json_of(data, kind)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _json_of, data, kind)

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, data: bytes, method: str, kind: type[Message]) -> bytes:
        field = INGEST_METHODS.get(method)
        if len(data) > self._message_bytes_max:
            raise too_large(field, "bytes", self._message_bytes_max, len(data))
        # Braces occur in texts too: an upper bound, which nearly every message stays below.
        if data.count(b"{") > MESSAGE_ELEMENTS_MAX:
            raise too_large(field, "elements in lists and maps", MESSAGE_ELEMENTS_MAX)
        message = kind()
        try:
            parse(data, message)
            return message.SerializeToString()
        except RecursionError:
            raise InvalidInput.one("request", f"is {too_deep(self._limits)}") from None
        except Fault as fault:
            raise InvalidInput([fault.violation]) from None


def _json_of(data: bytes, kind: type[Message]) -> bytes:
    return json_format.MessageToJson(kind.FromString(data), indent=None, ensure_ascii=False).encode()
