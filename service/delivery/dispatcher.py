"""Delivers all active connections with a fixed number of threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from functools import partial

import structlog

from engine import Engine
from engine.audiences.deliveries import Delivery
from engine.errors import FailedPrecondition
from engine.measures import Measure, gauge
from service.delivery.delivering import Delivering, Terms
from service.delivery.refused import RefusedEvents
from service.delivery.retry import RetryPolicy
from service.delivery.schedule import Schedule
from service.delivery.sinks import SINKS
from service.delivery.sinks.sink import Sink, SinkError, Surroundings
from service.repeating import Repeating

LOOK_INTERVAL_S = 0.25
"""Interval between checks for connections that were activated or deactivated."""
WAKE_INTERVAL_S_MIN = 0.02
"""Shortest pause between checks for changes, so that many small refreshes do not add up."""
STOP_S_MAX = 10.0
"""How long a stop waits for the batches that are being delivered. Their cursors are durable."""

_logger = structlog.get_logger("milepost.delivery")


class Dispatcher(Repeating):
    """Delivers connections as they are activated, until they are deactivated or it is stopped.

    Its own thread looks for connections and changes. The senders, as many threads as `threads`, take the
    connections that are due in turn, and deliver a batch each time.
    """

    def __init__(
        self,
        engine: Engine,
        surroundings: Surroundings,
        retry: RetryPolicy,
        *,
        threads: int,
        attempt_s_max: float,
        open_outputs_max: int,
        refused_bytes_max: int,
    ) -> None:
        super().__init__("dispatcher")
        self._engine = engine
        self._surroundings = surroundings
        refused = RefusedEvents(surroundings.output_dir, refused_bytes_max)
        self._terms = Terms(engine, self._open_sink, retry, attempt_s_max, refused)
        self._schedule: Schedule[Delivering] = Schedule(threads)
        self._deliverings: dict[str, Delivering] = {}
        self._open = OpenOutputs(open_outputs_max)
        self._changed: deque[Delivering] = deque()
        """Those whose audiences changed: filled in other threads."""
        self._heard = threading.Event()
        self._stop_listening: dict[str, Callable[[], None]] = {}
        self._look_at = 0.0
        self._senders = [
            threading.Thread(target=self._send, name="sender", daemon=True) for _ in range(threads)
        ]

    def measures(self) -> Iterator[Measure]:
        """Connections and open outputs."""
        yield gauge("delivery_connections", "Connections that are being delivered.", len(self._deliverings))
        yield gauge("delivery_open_outputs", "Files and connections held open to outputs.", len(self._open))

    def start(self) -> None:
        """Starts the threads."""
        super().start()
        for sender in self._senders:
            sender.start()

    def stop(self) -> None:
        """Stops after the current batches."""
        super().stop()
        self._schedule.close()
        deadline = time.monotonic() + STOP_S_MAX
        for sender in self._senders:
            if sender.ident is not None:
                sender.join(max(0.0, deadline - time.monotonic()))
        for delivering in self._deliverings.values():
            delivering.close_sink()

    # --- looking for work -----------------------------------------------------------------------------------

    def _turn(self) -> float:
        try:
            if time.monotonic() >= self._look_at:
                self._look()
                self._look_at = time.monotonic() + LOOK_INTERVAL_S
            self._heard.wait(max(0.0, self._look_at - time.monotonic()))
            self._heard.clear()
            self._schedule.wake(each for each in self._take_changed() if each.has_news())
        except Exception:
            _logger.exception("dispatcher failed")
            return LOOK_INTERVAL_S
        return WAKE_INTERVAL_S_MIN

    def _wake(self) -> None:
        self._heard.set()

    def _hear(self, delivering: Delivering) -> None:
        self._changed.append(delivering)
        self._heard.set()

    def _take_changed(self) -> list[Delivering]:
        """The connections whose audiences have changed."""
        changed: dict[Delivering, None] = {}
        while self._changed:
            changed[self._changed.popleft()] = None
        return list(changed)

    def _look(self) -> None:
        active = {delivery.connection.name: delivery for delivery in self._engine.deliveries.active()}
        for name, delivering in list(self._deliverings.items()):
            is_over = name not in active or delivering.is_over
            # One that runs goes on under its name, so that no connection is ever delivered twice at a time.
            if is_over and self._schedule.remove(delivering):
                self._open.close(delivering)
                del self._deliverings[name]
                self._stop_listening.pop(name)()
        changed = []
        for name, delivery in active.items():
            known = self._deliverings.get(name)
            if known is None:
                delivering = self._deliverings[name] = Delivering(self._terms, delivery)
                self._stop_listening[name] = self._engine.deliveries.listen(
                    delivery.connection, partial(self._hear, delivering)
                )
                self._schedule.add(delivering)
            elif known.is_outdated_by(delivery.connection):
                changed.append(known)
        # Those that wait for changes after their cursor, or for a batch to be old enough, look again.
        self._schedule.wake(changed)

    # --- sending --------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while (delivering := self._schedule.take()) is not None:
            at = delivering.step()
            self._open.used(delivering)
            self._schedule.put_back(delivering, at)
            if delivering.has_news():
                # It came after the step looked, and before the connection was known to wait.
                self._schedule.wake([delivering])

    def _open_sink(self, delivery: Delivery) -> Sink:
        try:
            opened = self._engine.deliveries.opened(delivery)
        except FailedPrecondition as error:
            raise SinkError(error.message, final=True) from error
        return SINKS[type(delivery.output.target)](opened, self._surroundings)


class OpenOutputs:
    """Keeps at most `most` outputs open between their batches: those used last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used: OrderedDict[Delivering, None] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._used)

    def used(self, delivering: Delivering) -> None:
        """Notes a step of a connection, and closes the outputs that were not used for longest."""
        with self._lock:
            if delivering.has_open_sink:
                self._used[delivering] = None
                self._used.move_to_end(delivering)
            else:
                self._used.pop(delivering, None)
            oldest = [each for each, _ in zip(self._used, range(len(self._used) - self._most), strict=False)]
        for each in oldest:
            self.close(each)

    def close(self, delivering: Delivering) -> None:
        """Closes the output of a connection, unless a step is using it."""
        if delivering.close_sink():
            with self._lock:
                self._used.pop(delivering, None)
