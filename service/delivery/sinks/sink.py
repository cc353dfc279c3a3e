"""What an output must do, whatever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec


class SinkError(Exception):
    """A batch was not taken. It is tried again, after `retry_after_s` when the other side said so, unless
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
    """Where the changes of one connection go. Used by one thread at a time."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Hands the events over, in order; on return they will not be lost. Raises SinkError."""
        ...

    def close(self) -> None: ...
