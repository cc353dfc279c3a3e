"""The whole service in one object: store, engine, server and the threads beside them."""

from __future__ import annotations

from engine import Engine
from engine.backends import registry
from engine.clock import Clock
from engine.values import MICROS_PER_SECOND
from service.background import Refresher, Retainer, Timekeeper, WriteWatch
from service.config import Config
from service.delivery.dispatcher import Dispatcher
from service.delivery.retry import RetryPolicy
from service.server import Server

MS_PER_SECOND = 1_000


class Application:
    """Opens the store, serves it, and closes it again: `start` and `stop`, once each."""

    def __init__(self, config: Config) -> None:
        self._stopped = False
        clock = Clock(
            follow_after=round(config.clock_follow_s * MICROS_PER_SECOND),
            settle_after=round(config.clock_settle_s * MICROS_PER_SECOND),
            trusted_at_start=config.clock == "trust",
        )
        self._backend = registry.open_backend(
            config.store_url, settings=config.store_settings, clock=clock.stamp
        )
        try:
            self.engine = Engine(self._backend, limits=config.limits, clock=clock)
            self._server = Server(self.engine, config)
        except BaseException:
            self._backend.close()
            raise
        self._refresher = Refresher(self.engine.live, interval_s=config.refresh_interval_ms / MS_PER_SECOND)
        self._timekeeper = Timekeeper(self.engine.clock)
        self._write_watch = WriteWatch(self._backend.write_fault, self._server.report_writes)
        self._retainer = Retainer(self.engine.retention, interval_s=config.retention_interval_s)
        self._dispatcher = Dispatcher(
            self.engine, config.outputs, RetryPolicy(budget_s=config.retry_budget_s)
        )

    @property
    def address(self) -> str:
        """Listening address with the actual port."""
        return self._server.address

    @property
    def port(self) -> int:
        """The actual port."""
        return self._server.port

    @property
    def in_flight(self) -> int:
        """Number of running calls."""
        return self._server.in_flight

    def start(self) -> None:
        """Starts the server, the refresher, delivery and retention."""
        self._timekeeper.start()
        self._refresher.start()
        self._retainer.start()
        self._dispatcher.start()
        self._server.start()
        self._write_watch.start()

    def stop(self) -> None:
        """Reports NOT_SERVING, drains calls, stops the threads and closes the store. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._write_watch.stop()
        self._server.stop()
        self._dispatcher.stop()
        self._refresher.stop()
        self._retainer.stop()
        self._timekeeper.stop()
        self.engine.close()
