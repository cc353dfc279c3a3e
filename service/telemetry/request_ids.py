"""Ids of calls: the caller's `x-request-id`, or one of the server's, in the log and in the answer.

A caller that sends an id gets it back in the trailing metadata of every answer. A call without one gets an id
when it fails or is logged, and its caller finds that in the trailing metadata.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

import grpc
import structlog

REQUEST_ID = "x-request-id"
REQUEST_ID_BYTES_MAX = 128
MADE_ID_BYTES = 8
_ACCEPTED = re.compile(rf"[!-~]{{1,{REQUEST_ID_BYTES_MAX}}}")


class Request:
    """One call, and its id."""

    __slots__ = ("_context", "_id")

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._id = ""
        for key, value in context.invocation_metadata():
            # An id that could break a log line or has no bound is not taken over.
            if key == REQUEST_ID and isinstance(value, str) and _ACCEPTED.fullmatch(value):
                self._id = value

    @property
    def has_id(self) -> bool:
        """Whether the caller sent an id, or one was made."""
        return bool(self._id)

    @property
    def id(self) -> str:
        """The caller's id, or one made on first use."""
        if not self._id:
            self._id = secrets.token_hex(MADE_ID_BYTES)
        return self._id

    def name(self) -> None:
        """Adds the id to the trailing metadata."""
        before = self._context.trailing_metadata() or ()
        self._context.set_trailing_metadata((*before, (REQUEST_ID, self.id)))


CURRENT: ContextVar[Request | None] = ContextVar("request", default=None)
"""The call that the thread runs."""


def add_request_id(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Adds the id of the current call to a log line; a processor of structlog."""
    request = CURRENT.get()
    if request is not None:
        event.setdefault("request_id", request.id)
    return event
