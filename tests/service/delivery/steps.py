"""One connection delivered step by step, in the thread of the test, to a sink that only remembers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from engine.audiences.deliveries import Delivery
from engine.resources.records import Connection
from service.delivery.delivering import Delivering, Terms
from service.delivery.refused import RefusedEvents
from service.delivery.retry import RetryPolicy
from service.delivery.schedule import AT_ONCE, WHEN_WOKEN
from service.delivery.sinks.sink import Event, SinkError
from tests.engine.site import Site

STEPS_MAX = 100


class Remembering:
    """A sink that keeps the changes of its batches, without the marks of snapshots. `before` is called with
    each batch first, and may refuse it.
    """

    is_open = False

    def __init__(self) -> None:
        self.batches: list[list[dict[str, Any]]] = []
        self.before: Callable[[], None] = lambda: None
        self.tried: list[str] = []

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event taken, in order."""
        return [event for batch in self.batches for event in batch]

    def told(self) -> list[tuple[str, str]]:
        """(user, last part of the type) of every event taken, in order."""
        return [(event["subject"], event["type"].rsplit(".", 1)[-1]) for event in self.events]

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        changes = [event for event in events if event.subject]
        self.tried += [event.id for event in changes]
        self.before()
        if changes:
            self.batches.append([json.loads(event.body) for event in changes])

    def tend(self) -> float:
        return WHEN_WOKEN

    def close(self) -> None:
        pass


def refuse_once(sink: Remembering, error: SinkError) -> None:
    """Has the sink refuse its next batch."""

    def refuse() -> None:
        sink.before = lambda: None
        raise error

    sink.before = refuse


def delivering_to(
    site: Site, connection: Connection, sink: Remembering, retry: RetryPolicy | None = None
) -> Delivering:
    """What delivers a connection to a sink."""

    def open_sink(delivery: Delivery) -> Remembering:
        return sink

    terms = Terms(site.engine, open_sink, retry or RetryPolicy(), 1.0, RefusedEvents(None, 0))
    found = {each.connection.name: each for each in site.engine.deliveries.active()}
    return Delivering(terms, found[connection.name])


def run(delivering: Delivering) -> float:
    """Steps until none is due at once. Returns when the next one is."""
    for _ in range(STEPS_MAX):
        due = delivering.step()
        if due != AT_ONCE:
            return due
    raise AssertionError(f"there is more to deliver after {STEPS_MAX} steps")
