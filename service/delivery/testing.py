"""Tests of outputs: a marked event is sent as a connection would send one, and the answer is reported."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec

from engine import Engine
from engine.audiences.deliveries import Delivery
from engine.errors import FailedPrecondition, LimitExceeded
from engine.resources.records import Audience, Connection, Milestone, Output, account_of
from service.convert.times import rfc3339
from service.delivery.sinks import SINKS
from service.delivery.sinks.sink import Event, Receipt, SinkError, Surroundings, defects_fail
from service.limits import OUTPUT_TEST_S_MAX, OUTPUT_TESTS_MAX

TESTED = "milepost.output.test"
"""Type of the event."""
CONNECTION_ID = "_test"
"""No connection can have it."""
_ID_BYTES = 8
TEST_RETRY_S = 1.0
"""When to try again while another test runs."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came back: why the output did not take the event ("" = it did), and its answer."""

    event_id: str
    error: str
    receipt: Receipt
    latency_s: float


class OutputTests:
    """Tests outputs. Each holds the thread of its call, so few run at a time, and one of an account."""

    def __init__(self, engine: Engine, surroundings: Surroundings, attempt_s_max: float) -> None:
        self._engine = engine
        self._surroundings = surroundings
        self._attempt_s_max = min(attempt_s_max, OUTPUT_TEST_S_MAX)
        self._running: set[str] = set()
        self._lock = threading.Lock()

    def test(self, name: str, deadline: float) -> Report:
        """Sends the event to an output until `deadline`, an instant of `time.monotonic()`, at most.

        Raises NotFound, FailedPrecondition when it sends nothing or its secrets cannot be read, LimitExceeded
        while other tests run.
        """
        output = self._engine.connections.get_output(name)
        if not output.target.sends:
            raise FailedPrecondition(
                f"{name} is of kind {output.target.kind()} and sends nothing", reason="OUTPUT_SENDS_NOTHING"
            )
        delivery = self._engine.deliveries.opened(_delivery_to(output))
        event = _event(output, rfc3339(self._engine.clock()))
        with self._admitted(account_of(name)):
            began = time.monotonic()
            error, receipt = self._send(delivery, event, min(deadline, began + self._attempt_s_max))
            return Report(event.id, error, receipt, time.monotonic() - began)

    def _send(self, delivery: Delivery, event: Event, deadline: float) -> tuple[str, Receipt]:
        try:
            with defects_fail(delivery.output.name):
                sink = SINKS[type(delivery.output.target)](delivery, self._surroundings)
                try:
                    receipt = sink.deliver([event], deadline) or Receipt()
                finally:
                    sink.close()
        except SinkError as error:
            return str(error), error.receipt or Receipt()
        if event.id in receipt.refused:
            return f"refused: {receipt.refused[event.id]}", receipt
        return "", receipt

    @contextmanager
    def _admitted(self, account: str) -> Iterator[None]:
        with self._lock:
            if account in self._running or len(self._running) >= OUTPUT_TESTS_MAX:
                raise LimitExceeded(
                    "another test of an output runs: try again once it is done",
                    reason="LIMIT_EXCEEDED",
                    metadata={"limit": "1" if account in self._running else str(OUTPUT_TESTS_MAX)},
                    retry_after_s=min(TEST_RETRY_S, self._attempt_s_max),
                )
            self._running.add(account)
        try:
            yield
        finally:
            with self._lock:
                self._running.remove(account)


def _delivery_to(output: Output) -> Delivery:
    """A delivery of no audience."""
    name = f"{account_of(output.name)}/connections/{CONNECTION_ID}"
    return Delivery(
        connection=Connection(name=name, audience="", output=output.name),
        output=output,
        audience=Audience(name="", milestone=""),
        milestone=Milestone(name="", audience=""),
        closing=False,
    )


def _event(output: Output, time_text: str) -> Event:
    event_id, source = f"test-{secrets.token_hex(_ID_BYTES)}", f"/{output.name}"
    data = msgspec.json.encode({"output": output.name, "display_name": output.display_name})
    attributes = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": TESTED,
        "time": time_text,
        "datacontenttype": "application/json",
        "data": msgspec.Raw(data),
    }
    body = msgspec.json.encode(attributes)
    return Event(event_id, body, source, TESTED, "", time_text, len(body) - 1 - len(data))
