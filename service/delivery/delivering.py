"""Moves the changes of one connection to its output, a batch at a time, in whatever thread runs the step.

Each step reads the connection's record again, so its durable cursor, state and opted-in fields are always
current. Between steps only the failures of the output are kept, and since when a batch waits to be full.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from engine import Engine
from engine.audiences.deliveries import Delivery
from engine.audiences.model import DeliveryBatch
from engine.errors import CursorExpired, NotFound, StoreUnavailable
from engine.resources.records import Connection, account_of
from engine.values import MICROS_PER_SECOND
from service.delivery.cloud_events import cloud_events
from service.delivery.refused import RefusedEvents
from service.delivery.retry import RetryPolicy
from service.delivery.schedule import AT_ONCE, WHEN_WOKEN
from service.delivery.sinks.sink import Sink, SinkError, defects_fail

SLOW_STEP_S = 1.0
"""A connection whose last step took longer counts as slow."""

_logger = structlog.get_logger("milepost.delivery")


@dataclass(frozen=True, slots=True)
class Terms:
    """What all connections are delivered by. An attempt should end within `attempt_s_max` seconds."""

    engine: Engine
    open_sink: Callable[[Delivery], Sink]
    retry: RetryPolicy
    attempt_s_max: float
    refused: RefusedEvents


class Delivering:
    """Delivers one connection until it is no longer active: `is_over`."""

    def __init__(self, terms: Terms, delivery: Delivery) -> None:
        self._terms = terms
        self._delivery = delivery
        self._sink: Sink | None = None
        self._using_sink = threading.Lock()
        failing_for = delivery.connection.failing_for
        # Before the start of the service too.
        self._failures = 1 if failing_for else 0
        self._failing_since = time.monotonic() - failing_for / MICROS_PER_SECOND
        self._gathering_since: float | None = None
        self._wake_beyond: int | None = None
        self._last_step_s = 0.0
        self.name = delivery.connection.name
        self.is_over = False
        self._log = _logger.bind(connection=self.name)

    @property
    def is_slow(self) -> bool:
        """Whether the output failed last, or took long."""
        return self._failures > 0 or self._last_step_s > SLOW_STEP_S

    @property
    def has_open_sink(self) -> bool:
        """Whether the output may hold a file or a connection open."""
        return self._sink is not None and self._sink.is_open

    def is_outdated_by(self, connection: Connection) -> bool:
        """Whether the connection was updated, replayed or activated anew since the last step."""
        known = self._delivery.connection
        return (connection.update_time, connection.activation) != (known.update_time, known.activation)

    def has_news(self) -> bool:
        """Whether there are changes that a waiting delivery should go on for."""
        return self._wake_beyond is not None and self._terms.engine.deliveries.has_changes(
            self._delivery.connection, self._wake_beyond
        )

    def step(self) -> float:
        """Delivers at most one batch. Returns when the next step is due, an instant of `time.monotonic()`."""
        began = time.monotonic()
        self._wake_beyond = None
        try:
            with self._using_sink:
                return self._step()
        except NotFound:
            # The connection was deleted.
            return self._end()
        except StoreUnavailable:
            return time.monotonic() + self._terms.retry.first_wait_s
        except Exception:
            # What was not confirmed is read again from the durable cursor.
            self._log.exception("delivery failed")
            self.close_sink()
            return time.monotonic() + self._terms.retry.wait_s_max
        finally:
            self._last_step_s = time.monotonic() - began

    def close_sink(self) -> bool:
        """Closes what the output holds open; the next step opens it again. False: a step is using it."""
        if not self._using_sink.acquire(blocking=False):
            return False
        try:
            if self._sink is not None:
                self._sink.close()
            return True
        finally:
            self._using_sink.release()

    # --- steps ----------------------------------------------------------------------------------------------

    def _step(self) -> float:
        connection = self._terms.engine.connections.get_connection(self.name)
        if not connection.delivers:
            return self._end()
        self._follow(connection)
        try:
            batch = self._terms.engine.deliveries.pull(connection, connection.batch_changes)
        except CursorExpired as error:
            return self._fault(error.message)
        if not (batch.changes or batch.begins or batch.ends):
            return self._advance_or_wait(connection, batch)
        full_at = self._full_at(connection, batch)
        if full_at > time.monotonic():
            self._wake_beyond = connection.delivered + connection.batch_changes - 1
            return full_at
        self._gathering_since = None
        wanted = self._terms.engine.deliveries.wanted(connection, batch)
        try:
            sent = self._deliver(connection, wanted)
        except SinkError as error:
            return self._failed(error)
        self._terms.engine.deliveries.advance(connection, batch.cursor, sent=sent)
        return AT_ONCE

    def _follow(self, connection: Connection) -> None:
        """Reads the records again. An output that was changed is opened anew with what it has now."""
        output = self._delivery.output
        self._delivery = self._terms.engine.deliveries.delivery_of(connection)
        if self._sink is not None and self._delivery.output != output:
            self._sink.close()
            self._sink = None

    def _full_at(self, connection: Connection, batch: DeliveryBatch) -> float:
        """When the batch has to go: at once when it is full, or of the last exits, else once its oldest
        change waited enough.
        """
        is_full = not batch.caught_up or len(batch.changes) >= connection.batch_changes
        if is_full or connection.exiting or self._failures:
            return AT_ONCE
        if self._gathering_since is None:
            self._gathering_since = time.monotonic()
        return self._gathering_since + connection.batch_age / MICROS_PER_SECOND

    def _advance_or_wait(self, connection: Connection, batch: DeliveryBatch) -> float:
        if batch.cursor != connection.cursor:
            self._terms.engine.deliveries.advance(connection, batch.cursor, sent=False)
            return AT_ONCE
        try:
            with defects_fail(self.name):
                due = self._opened_sink().tend()
        except SinkError as error:
            return self._failed(error)
        self._failures = 0
        self._wake_beyond = connection.delivered
        return due

    def _deliver(self, connection: Connection, batch: DeliveryBatch) -> bool:
        """False: there is nothing to send."""
        account, engine = account_of(connection.name), self._terms.engine
        events = cloud_events(self._delivery, batch, lambda user: engine.backend.profile(account, user))
        if not events:
            return False
        with defects_fail(self.name):
            receipt = self._opened_sink().deliver(events, time.monotonic() + self._terms.attempt_s_max)
        if receipt is not None and receipt.refused:
            self._terms.refused.keep(self.name, events, receipt.refused)
            engine.deliveries.refused(self._delivery, len(receipt.refused))
            self._log.warning("output refused events", events=len(receipt.refused))
        self._failures = 0
        engine.deliveries.succeeded(self._delivery, len(batch.changes))
        return True

    def _opened_sink(self) -> Sink:
        if self._sink is None:
            self._sink = self._terms.open_sink(self._delivery)
        return self._sink

    # --- failures -------------------------------------------------------------------------------------------

    def _failed(self, error: SinkError) -> float:
        if self._sink is not None:
            self._sink.close()
        now = time.monotonic()
        if not self._failures or error.progressed:
            self._failing_since, self._failures = now, 0
        self._failures += 1
        failing_for = round((now - self._failing_since) * MICROS_PER_SECOND)
        self._terms.engine.deliveries.failed(self._delivery, str(error), failing_for)
        retry = self._terms.retry
        if error.final or now - self._failing_since >= retry.budget_s:
            return self._fault(str(error))
        wait_s = retry.wait_s(self._failures, error.retry_after_s)
        self._log.warning("output failed", error=str(error), failures=self._failures, wait_s=round(wait_s, 3))
        return now + wait_s

    def _fault(self, why: str) -> float:
        self._terms.engine.connections.mark_faulted(self.name, why)
        self._log.error("connection faulted", why=why)
        return self._end()

    def _end(self) -> float:
        self.is_over = True
        return WHEN_WOKEN
