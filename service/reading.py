"""Reads requests: measures each before it is parsed, and checks its lists before a handler sees it.

gRPC cannot refuse a message with a reason while it reads it. So an `Unreadable` takes its place, whose error
is raised when the call runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from engine.errors import InvalidInput, MilepostError, Violation
from engine.limits import MESSAGE_ELEMENTS_MAX, Limits
from service.convert.list_limits import ListLimits
from service.convert.wire_elements import NESTED_MAX, WireElements
from service.limits import LARGE_MESSAGE_BYTES
from service.methods import INGEST_METHODS

REST_SECONDS = 0.0005
"""A rest after a large message, before the next one is parsed. It lets threads in that wait for the
interpreter, of which a call needs it about five times.
"""

_large = threading.Lock()
"""Held while a large message is parsed."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Placeholder for a message that was not read. Its error is raised when the call runs."""

    error: MilepostError


def checked(request: Any) -> Any:
    """The request. Raises the error of an unreadable one."""
    if type(request) is Unreadable:
        raise request.error
    return request


class RequestReader:
    """Reads the requests of all methods."""

    def __init__(self, message_bytes_max: int, limits: Limits) -> None:
        self._message_bytes_max = message_bytes_max
        self.limits = limits

    def of(self, method: str, parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
        """The deserialiser of a method: the message, or an Unreadable. `parse` is `FromString` of its
        message.
        """
        field = INGEST_METHODS.get(method)
        kind = _kind_of(parse)
        elements = None if kind is None else WireElements(kind)
        lists = None if kind is None else ListLimits(kind, self.limits)
        unparsed = "could not be parsed as a message of this method"
        if elements is not None and elements.nest:
            unparsed += f": it is malformed, or {too_deep(self.limits)}"

        def read(data: bytes) -> Any:
            if len(data) > self._message_bytes_max:
                return Unreadable(too_large(field, "bytes", self._message_bytes_max, len(data)))
            if parse is None:
                return data
            if len(data) < LARGE_MESSAGE_BYTES:
                return parsed(parse, data)
            with _large:
                message = parsed(parse, data)
                time.sleep(REST_SECONDS)
            return message

        def parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
            if elements is not None and elements.are_too_many(data):
                return Unreadable(too_large(field, "elements in lists and maps", MESSAGE_ELEMENTS_MAX))
            try:
                message = parse(data)
                if lists is not None:
                    lists.check(message)
            except DecodeError:
                return Unreadable(InvalidInput.one("request", unparsed))
            except InvalidInput as error:
                return Unreadable(error)
            return message

        return read


def _kind_of(parse: object) -> type[Message] | None:
    """The kind of message that a bound `FromString` parses."""
    kind = getattr(parse, "__self__", None)
    return kind if isinstance(kind, type) and issubclass(kind, Message) else None


def too_deep(limits: Limits) -> str:
    """What is wrong with a message that has more levels than its parser takes."""
    return (
        f"nested deeper than the {NESTED_MAX} levels of messages that are read; criteria have at most"
        f" {limits.criteria_depth_max} levels"
    )


def too_large(field: str | None, what: str, limit: int, actual: int | None = None) -> InvalidInput:
    """The refusal of a request that has too much of something. `field` is that of the batch, if it is one."""
    has = "too many" if actual is None else f"{actual:,}"
    metadata = {"limit": str(limit)} | ({} if actual is None else {"actual": str(actual)})
    return InvalidInput(
        [Violation(field or "request", f"has {has} {what}; at most {limit:,} are allowed")],
        reason="BATCH_TOO_LARGE" if field else "INVALID_ARGUMENT",
        metadata=metadata,
    )
