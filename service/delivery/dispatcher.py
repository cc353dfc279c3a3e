"""Runs one sender per active connection."""

from __future__ import annotations

from pathlib import Path

import structlog

from engine import Engine
from engine.audiences.outbox import Outgoing
from engine.errors import Unsupported
from engine.resources.records import File, account_of
from service.delivery.retry import RetryPolicy
from service.delivery.sender import Sender
from service.delivery.sinks.file import FileSink, file_path
from service.delivery.sinks.sink import Sink
from service.repeating import Repeating

LOOK_INTERVAL_S = 0.25
"""How often the dispatcher looks which connections deliver."""

_logger = structlog.get_logger("milepost.delivery")


class Dispatcher(Repeating):
    """Starts and stops senders as connections are activated and deactivated."""

    def __init__(self, engine: Engine, output_dir: Path, retry: RetryPolicy) -> None:
        super().__init__("dispatcher")
        self._engine = engine
        self._output_dir = output_dir
        self._retry = retry
        self._senders: dict[str, Sender] = {}

    def stop(self) -> None:
        """Stops all senders after their current batch and waits for them."""
        super().stop()
        for sender in self._senders.values():
            sender.ask_to_stop()
        for sender in self._senders.values():
            sender.join()
        self._senders.clear()

    def _turn(self) -> float:
        try:
            self._look()
        except Exception:
            _logger.exception("dispatcher failed")
        return LOOK_INTERVAL_S

    def _look(self) -> None:
        outgoing = {item.connection.name: item for item in self._engine.outbox.outgoing()}
        for name in [name for name, sender in self._senders.items() if not sender.is_alive]:
            del self._senders[name]
        for name, sender in self._senders.items():
            if name not in outgoing:
                sender.ask_to_stop()
        for name, item in outgoing.items():
            if name in self._senders:
                continue
            sender = self._senders[name] = Sender(self._engine, item, self._open_sink, self._retry)
            sender.start()

    def _open_sink(self, outgoing: Outgoing) -> Sink:
        target = outgoing.output.target
        if not isinstance(target, File):
            raise Unsupported(f"outputs of kind {type(target).__name__} are not built yet")
        connection = outgoing.connection.name
        return FileSink(file_path(self._output_dir, account_of(connection), target.path, connection))
