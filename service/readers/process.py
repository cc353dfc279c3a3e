"""A reader process, from its first message to its end.

It ends when the writer says so or has ended, and on SIGTERM, after which the writer starts another.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

import structlog

from engine.backends import registry
from engine.measures import Durations
from engine.process_memory import POLL_SECONDS, FreedMemory, limit_arenas
from service import logs
from service.interpreter import leave_out_of_collections, share_interpreter
from service.readers.messages import READY, Answered, Health, Reload, Start, Stop, receive
from service.readers.server import ReaderServer
from service.repeating import Repeating
from service.signals import RELOAD_SIGNAL, Signals
from service.telemetry.descriptors import DescriptorWatch

EXIT_FAILED = 1
REPORT_INTERVAL_S = 1.0

_logger = structlog.get_logger("milepost.reader")


class Reports(Repeating):
    """Tells the writer every `REPORT_INTERVAL_S` which calls were answered, and once more when stopped."""

    def __init__(self, answered: Mapping[str, Durations], stream: IO[bytes]) -> None:
        super().__init__("reports")
        self._answered = answered
        self._stream = stream

    def stop(self) -> None:
        """Stops the thread, and tells what is left."""
        super().stop()
        self._turn()

    def _turn(self) -> float:
        for method, durations in self._answered.items():
            calls = durations.take()
            if calls.total:
                # A writer that has ended needs no report, and ends this process.
                with suppress(OSError):
                    self._stream.write(Answered(method, calls).line())
                    self._stream.flush()
        return REPORT_INTERVAL_S


class _Memory(Repeating):
    """Returns memory that calls have freed to the system."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._freed = FreedMemory()

    def _turn(self) -> float:
        self._freed.check()
        return POLL_SECONDS


class _Control:
    """Follows what the writer says. Ends the process at once when the writer has ended."""

    def __init__(self, stream: IO[bytes], server: ReaderServer) -> None:
        self._stream = stream
        self._server = server
        self.is_told_to_stop = False
        self._thread = threading.Thread(target=self._follow, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _follow(self) -> None:
        while (message := receive(self._stream)) is not None:
            match message:
                case Health(service, status):
                    self._server.set_health(service, status)
                case Reload():
                    self._server.reload()
                case Stop():
                    self.is_told_to_stop = True
                    os.kill(os.getpid(), signal.SIGTERM)
        # Whatever is under way here cannot be answered any more.
        _logger.error("the service has ended; this reader ends too")
        os._exit(EXIT_FAILED)


def run() -> int:
    """Serves until told to stop and returns the exit status."""
    limit_arenas()
    share_interpreter()
    signals = Signals()
    # Unbuffered: a buffer that a thread waits in cannot be let go of at the end.
    stream = os.fdopen(os.dup(sys.stdin.fileno()), "rb", buffering=0)
    # Loaded before the first message, which a process in reserve waits for.
    registry.registration(registry.DEFAULT_BACKEND)
    start = receive(stream)
    if not isinstance(start, Start):
        return EXIT_FAILED
    config = start.config()
    logs.configure(config.log_format, config.log_level)
    try:
        server = ReaderServer(start)
    except OSError as error:
        _logger.error("reader cannot start", error=str(error))
        return EXIT_FAILED
    control = _Control(stream, server)
    server.start()
    control.start()
    leave_out_of_collections()
    with suppress(BrokenPipeError):
        # Else the service has just ended, which the control notices.
        print(READY, flush=True)
    reports = Reports(server.answered, sys.stdout.buffer)
    reports.start()
    descriptors, memory = DescriptorWatch(), _Memory("memory")
    descriptors.start()
    memory.start()
    while signals.wait() is RELOAD_SIGNAL:
        # Meant for the service, which readers follow.
        continue
    server.stop(alone=not control.is_told_to_stop)
    reports.stop()
    descriptors.stop()
    memory.stop()
    return 0
