"""Moves the changes of one connection to its output, in a thread of its own.

Each round reads the connection's record anew, so that its durable cursor, its state and what it opts in to
are always those in force; between rounds nothing is remembered but how long the output has been failing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec
import structlog

from engine import Engine
from engine.audiences.model import DeliveryBatch
from engine.audiences.outbox import Outgoing
from engine.errors import CursorExpired, NotFound, StoreUnavailable
from engine.resources.records import Connection, ConnectionState, account_of
from engine.values import MICROS_PER_SECOND
from service.delivery.cloud_events import cloud_event
from service.delivery.retry import RetryPolicy
from service.delivery.sinks.sink import Sink, SinkError

IDLE_WAIT_S = 0.5
"""Maximum wait for changes between checks of the stop flag."""
IDLE_PAUSE_S = 0.05
"""Pause between checks for a membership that does not exist yet."""

_logger = structlog.get_logger("milepost.delivery")


class Sender:
    """Delivers one connection until it is stopped or no longer active."""

    def __init__(
        self,
        engine: Engine,
        outgoing: Outgoing,
        open_sink: Callable[[Outgoing], Sink],
        retry: RetryPolicy,
    ) -> None:
        self._engine = engine
        self._open_sink = open_sink
        self._retry = retry
        self._stopping = threading.Event()
        self._output: Sink | None = None
        self._failures = 0
        self._failing_since = 0.0
        self.outgoing = outgoing
        self._log = _logger.bind(connection=outgoing.connection.name)
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Stops the thread after the current batch."""
        self._stopping.set()

    def join(self) -> None:
        """Waits until the thread has ended."""
        self._thread.join()

    # --- rounds ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                if not self._round():
                    return
        except (NotFound, StoreUnavailable):
            # The connection has been deleted, or the service is stopping.
            return
        except Exception:
            # The dispatcher starts another sender, which goes on from the durable cursor.
            self._log.exception("delivery failed")
            self._stopping.wait(self._retry.first_wait_s)
        finally:
            self._close_output()

    def _round(self) -> bool:
        """Delivers a batch or waits for one. False when the connection is no longer active."""
        connection = self._engine.connections.get_connection(self.outgoing.connection.name)
        if connection.state is not ConnectionState.ACTIVE:
            return False
        self.outgoing = msgspec.structs.replace(self.outgoing, connection=connection)
        try:
            batch = self._gathered(connection)
        except CursorExpired as error:
            return self._fault(error.message)
        if not batch.changes:
            self._wait_or_advance(connection, batch)
            return True
        try:
            self._deliver(connection, batch)
        except SinkError as error:
            return self._failed(error)
        self._advance(connection, batch)
        return True

    def _gathered(self, connection: Connection) -> DeliveryBatch:
        """A full batch, or a smaller one once its oldest change has waited long enough."""
        outbox = self._engine.outbox
        batch = outbox.pull(connection, connection.batch_changes)
        deadline = time.monotonic() + connection.batch_age / MICROS_PER_SECOND
        while batch.changes and batch.caught_up and len(batch.changes) < connection.batch_changes:
            if time.monotonic() >= deadline or self._stopping.is_set():
                break
            pulled = msgspec.structs.replace(connection, delivered=batch.cursor.sequence)
            outbox.wait(pulled, min(deadline, time.monotonic() + IDLE_WAIT_S))
            batch = outbox.pull(connection, connection.batch_changes)
        return batch

    def _wait_or_advance(self, connection: Connection, batch: DeliveryBatch) -> None:
        moved = (batch.cursor.sequence, batch.cursor.snapshot_after)
        if moved != (connection.delivered, connection.snapshot_after):
            self._advance(connection, batch)
        elif not self._engine.outbox.wait(connection, time.monotonic() + IDLE_WAIT_S):
            self._stopping.wait(IDLE_PAUSE_S)

    def _deliver(self, connection: Connection, batch: DeliveryBatch) -> None:
        account = account_of(connection.name)
        snapshot = connection.snapshot_after is not None
        events = [
            cloud_event(
                self.outgoing, change, snapshot, lambda user: self._engine.backend.profile(account, user)
            )
            for change in batch.changes
        ]
        if self._output is None:
            self._output = self._open_sink(self.outgoing)
        self._output.deliver(events)
        self._failures = 0

    def _advance(self, connection: Connection, batch: DeliveryBatch) -> None:
        known = self._engine.connections.get_connection(connection.name)
        # Switched off and on again meanwhile: its cursor has begun anew, and this batch is none of that.
        if known.update_time == connection.update_time:
            self._engine.outbox.advance(connection, batch.cursor)

    # --- failing --------------------------------------------------------------------------------------------

    def _failed(self, error: SinkError) -> bool:
        self._close_output()
        now = time.monotonic()
        if not self._failures:
            self._failing_since = now
        self._failures += 1
        if error.final or now - self._failing_since >= self._retry.budget_s:
            return self._fault(str(error))
        wait_s = self._retry.wait_s(self._failures, error.retry_after_s)
        self._log.warning("output failed", error=str(error), failures=self._failures, wait_s=round(wait_s, 3))
        self._stopping.wait(wait_s)
        return True

    def _fault(self, why: str) -> bool:
        self._engine.connections.mark_faulted(self.outgoing.connection.name, why)
        self._log.error("connection faulted", why=why)
        return False

    def _close_output(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            output.close()
