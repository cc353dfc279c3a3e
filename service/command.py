"""The command: settings, one application, signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import FrameType

import structlog

from engine.errors import MilepostError
from engine.local.memory import limit_arenas
from service import logs
from service.application import Application
from service.config import ConfigError, load

EXIT_FAILED = 1
EXIT_USAGE = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = structlog.get_logger("milepost.service")


def run(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, and answers the exit status.

    Once serving it prints `ready address=HOST:PORT` on stdout; everything else goes to the log on stderr.
    """
    try:
        config = load(sys.argv[1:] if argv is None else argv, os.environ)
    except ConfigError as error:
        print(f"milepost: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(config.log_format, config.log_level)
    limit_arenas()
    stopping = _stop_on_signals()
    try:
        application = Application(config)
    except (MilepostError, OSError) as error:
        print(f"milepost: {error}", file=sys.stderr)
        return EXIT_FAILED
    application.start()
    try:
        _announce(application, config.port_file)
        stopping.get()
        _logger.info("stopping")
    finally:
        application.stop()
    _logger.info("stopped")
    return 0


def _stop_on_signals() -> SimpleQueue[int]:
    """Where the numbers of signals to stop come.

    Not an event: a handler runs in the thread that waits for it, and would wait for itself when it sets the
    event just as that thread has the event's lock. `SimpleQueue.put` may interrupt anything.
    """
    stopping: SimpleQueue[int] = SimpleQueue()

    def stop(signum: int, frame: FrameType | None) -> None:
        stopping.put(signum)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    return stopping


def _announce(application: Application, port_file: Path | None) -> None:
    if port_file is not None:
        # Renamed into place, so that whoever waits for the file never reads half a number.
        unfinished = port_file.with_name(port_file.name + ".unfinished")
        unfinished.write_text(f"{application.port}\n", encoding="ascii")
        unfinished.replace(port_file)
    print(f"ready address={application.address}", flush=True)
    _logger.info("ready", address=application.address)
