"""Batches of events as bytes, prepared before measuring; and how fast Python reads such bytes.

An event has a user, one of five names, a time, a number and one of fifty strings, and an event id on request:
a small but realistic event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from milepost.v1.data_pb2 import Event
from milepost.v1.ingest_service_pb2 import IngestEventsRequest, StreamEventsRequest

SEED = 20_261_001
USERS = 100_000
NAMES = ("view", "cart", "buy", "search", "open")
CATEGORIES = tuple(f"category {number:02}" for number in range(50))
AMOUNT_CENTS_MAX = 100_000
FIRST_SECOND = 1_750_000_000
SECONDS = 30 * 86_400
NANOS_A_MICRO = 1_000
MICROS_A_SECOND = 1_000_000
READS = 3
"""Number of runs, of which the fastest counts: the best that Python can do."""


@dataclass(frozen=True)
class Batches:
    """The same batches for both methods: an `IngestEventsRequest` each, and a `StreamEventsRequest` each."""

    events: int
    unary: Sequence[bytes]
    streamed: Sequence[bytes]

    @property
    def bytes_an_event(self) -> float:
        return sum(map(len, self.unary)) / self.events


def encode(events: int, batch_events: int, *, parent: str, input: str, have_event_ids: bool) -> Batches:
    """Equal arguments give equal bytes; each batch has a request id."""
    drawn = np.random.default_rng(SEED)
    unary, streamed = [], []
    for number, start in enumerate(range(0, events, batch_events)):
        count = min(batch_events, events - start)
        batch = IngestEventsRequest(parent=parent, input=input, request_id=f"batch-{number}")
        for row, columns in enumerate(_draw(drawn, count), start):
            _add(batch, columns, f"event-{row:012}" if have_event_ids else "")
        unary.append(batch.SerializeToString())
        streamed.append(StreamEventsRequest(batch=batch, sequence=number).SerializeToString())
    return Batches(events, unary, streamed)


def _draw(drawn: np.random.Generator, count: int) -> Any:
    return zip(
        drawn.integers(0, USERS, count).tolist(),
        drawn.integers(0, len(NAMES), count).tolist(),
        drawn.integers(0, SECONDS * MICROS_A_SECOND, count).tolist(),
        drawn.integers(1, AMOUNT_CENTS_MAX, count).tolist(),
        drawn.integers(0, len(CATEGORIES), count).tolist(),
        strict=True,
    )


def _add(batch: IngestEventsRequest, columns: tuple[int, ...], event_id: str) -> None:
    user, name, micros, cents, category = columns
    event = batch.events.add(user_id=f"user-{user}", name=NAMES[name], event_id=event_id)
    seconds, micros = divmod(micros, MICROS_A_SECOND)
    event.time.seconds, event.time.nanos = FIRST_SECOND + seconds, micros * NANOS_A_MICRO
    event.attributes["amount"].number_value = cents / 100
    event.attributes["category"].string_value = CATEGORIES[category]


# --- what reading costs ---


def parsed_per_second(batches: Batches) -> float:
    """Events a second when the bytes are only parsed: without creating Python objects."""
    return _per_second(batches, IngestEventsRequest.FromString)


def read_per_second(batches: Batches) -> float:
    """Events per second when the bytes are parsed and every field is read: the minimum work of any service in
    Python.
    """

    def read(encoded: bytes) -> object:
        return [_read(event) for event in IngestEventsRequest.FromString(encoded).events]

    return _per_second(batches, read)


def _read(event: Event) -> tuple[object, ...]:
    # The fastest access: a missing string reads as an empty one.
    attributes = {key: value.string_value or value.number_value for key, value in event.attributes.items()}
    time = event.time
    return (
        event.user_id,
        event.input,
        event.name,
        event.event_type,
        time.seconds,
        time.nanos,
        event.event_id,
        attributes,
    )


def _per_second(batches: Batches, read: Callable[[bytes], object]) -> float:
    seconds = []
    for _ in range(READS):
        started = time.perf_counter()
        for encoded in batches.unary:
            read(encoded)
        seconds.append(time.perf_counter() - started)
    return batches.events / min(seconds)
