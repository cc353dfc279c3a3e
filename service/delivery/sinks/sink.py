"""The interface of sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class SinkError(Exception):
    """A batch failed. It is retried, after `retry_after_s` when the receiver asked for it, unless
    `final`.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, final: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.final = final


class Event(msgspec.Struct, frozen=True):
    """One change on its way out: its CloudEvents id, by which a repetition is recognised, and its JSON."""

    id: str
    body: bytes


class Sink(Protocol):
    """Destination of one connection's changes. Used by one thread at a time."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Delivers the events in order. They are durable on return. Raises SinkError."""
        ...

    def close(self) -> None: ...
