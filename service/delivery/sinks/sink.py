"""The interface of sinks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import structlog

from engine.errors import MilepostError
from service.delivery.surroundings import Surroundings as Surroundings

_logger = structlog.get_logger("milepost.delivery")

NEVER = math.inf
"""An instant of `time.monotonic()` that never comes."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a receiver answered, where its protocol has more than yes and no: an HTTP status, the start of the
    response's body, and for events that it refused, the reasons by their ids.
    """

    status: int = 0
    excerpt: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


class SinkError(Exception):
    """A batch failed. It is retried unless `final`, after `retry_after_s` if the receiver asks for a wait."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        final: bool = False,
        receipt: Receipt | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.final = final
        self.receipt = receipt
        self.progressed = False
        """Whether the attempt delivered a part of the batch, so that the output is not dead."""


class Event(msgspec.Struct, frozen=True):
    """One change to deliver, as a CloudEvent.

    `body` is its structured JSON, whose last member is `data`, from byte `data_at` on. The other fields are
    its attributes, for sinks that send them as headers. `source` and `id` together identify duplicates;
    `subject` is the user id; "" for the marks of a snapshot, which have none.
    """

    id: str
    body: bytes
    source: str = ""
    type: str = ""
    subject: str = ""
    time: str = ""
    data_at: int = 0

    @property
    def data(self) -> bytes:
        """The JSON of `data` alone."""
        return self.body[self.data_at : -1]


class Sink(Protocol):
    """Destination of one connection's changes. Used by one thread at a time, not always the same."""

    @property
    def is_open(self) -> bool:
        """Whether it holds a file or a connection open."""
        ...

    def deliver(self, events: Sequence[Event], deadline: float) -> Receipt | None:
        """Delivers the events in order, opening what it needs. They are durable on return, except those that
        the answer names as refused. The answer is that of the receiver, where its protocol has one.

        Raises SinkError, also when it is not done at `deadline`, an instant of `time.monotonic()`: a thread
        that waits for one receiver is missing for others.
        """
        ...

    def tend(self) -> float:
        """Does what is due without new changes, such as finishing a file that is old enough. Called while all
        that was delivered is confirmed, at the latest at the instant of `time.monotonic()` that the last call
        returned, `NEVER` when nothing will be due. Raises SinkError.
        """
        ...

    def close(self) -> None:
        """Closes what it holds open. A later delivery opens it again, so closing costs time but loses
        nothing.
        """
        ...


@contextmanager
def defects_fail(connection: str) -> Iterator[None]:
    """Within the block a defect of a sink is logged and raised as SinkError. So it is tried again, shown, and
    ends in a fault like what an output refuses.
    """
    try:
        yield
    except (SinkError, MilepostError):
        raise
    except Exception as defect:
        _logger.exception("output failed after a defect", connection=connection)
        raise SinkError(
            f"the service failed to use this output ({type(defect).__name__}); its log says where"
        ) from defect
