"""Keeps one worker for each connection that delivers."""

from __future__ import annotations

from pathlib import Path

import structlog

from engine.audiences.outbox import Outgoing
from engine.engine import Engine
from engine.errors import Unsupported
from engine.journeys.model import File, account_of
from service.delivery.file import FileOutput, file_path
from service.delivery.output import Output
from service.delivery.retry import RetryPolicy
from service.delivery.worker import Worker
from service.repeating import Repeating

LOOK_INTERVAL_S = 0.25
"""How often the courier looks which connections deliver."""

_logger = structlog.get_logger("milepost.delivery")


class Courier(Repeating):
    """Starts and ends workers as connections are switched on and off, until stopped."""

    def __init__(self, engine: Engine, output_dir: Path, retry: RetryPolicy) -> None:
        super().__init__("courier")
        self._engine = engine
        self._output_dir = output_dir
        self._retry = retry
        self._workers: dict[str, Worker] = {}

    def stop(self) -> None:
        """Ends all workers after the batches that are under way, and waits for them."""
        super().stop()
        for worker in self._workers.values():
            worker.ask_to_stop()
        for worker in self._workers.values():
            worker.join()
        self._workers.clear()

    def _turn(self) -> float:
        try:
            self._look()
        except Exception:
            _logger.exception("courier failed")
        return LOOK_INTERVAL_S

    def _look(self) -> None:
        outgoing = {item.connection.name: item for item in self._engine.outbox.outgoing()}
        for name in [name for name, worker in self._workers.items() if not worker.is_alive]:
            del self._workers[name]
        for name, worker in self._workers.items():
            if name not in outgoing:
                worker.ask_to_stop()
        for name, item in outgoing.items():
            if name in self._workers:
                continue
            worker = self._workers[name] = Worker(self._engine, item, self._open_output, self._retry)
            worker.start()

    def _open_output(self, outgoing: Outgoing) -> Output:
        target = outgoing.output.target
        if not isinstance(target, File):
            raise Unsupported(f"outputs of kind {type(target).__name__} are not built yet")
        connection = outgoing.connection.name
        return FileOutput(file_path(self._output_dir, account_of(connection), target.path, connection))
