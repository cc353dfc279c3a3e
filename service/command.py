"""The command: settings, one application, signals."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from engine.backends import registry
from engine.errors import MilepostError
from service import logs
from service.application import Application
from service.config import ConfigError, load

EXIT_FAILED = 1
EXIT_USAGE = 2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_logger = structlog.get_logger("milepost.service")


def run(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit status.

    Once serving it prints `ready address=HOST:PORT` on stdout; everything else goes to the log on stderr.
    """
    try:
        config = load(sys.argv[1:] if argv is None else argv, os.environ)
    except ConfigError as error:
        print(f"milepost: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(config.log_format, config.log_level)
    registry.prepare_process(config.store_url)
    stopping = StopSignals()
    try:
        application = Application(config)
    except (MilepostError, OSError) as error:
        print(f"milepost: {error}", file=sys.stderr)
        return EXIT_FAILED
    application.start()
    try:
        _announce(application, config.port_file)
        stopping.wait()
        _logger.info("stopping")
    finally:
        application.stop()
    _logger.info("stopped")
    return 0


class StopSignals:
    """Waits for a signal to stop, from when it is made, in the main thread.

    Signals come through a socket, as neither an event nor a queue that a handler fills is sure to wake the
    main thread: the system may give a signal to any thread, and handlers run in the main one, when it wakes.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            # A signal without a handler would end the process.
            signal.signal(number, lambda number, frame: None)

    def wait(self) -> None:
        """Returns when one has come."""
        self._receiver.recv(1)


def _announce(application: Application, port_file: Path | None) -> None:
    if port_file is not None:
        # Renamed into place: a reader never sees a partial number.
        unfinished = port_file.with_name(port_file.name + ".unfinished")
        unfinished.write_text(f"{application.port}\n", encoding="ascii")
        unfinished.replace(port_file)
    print(f"ready address={application.address}", flush=True)
    _logger.info("ready", address=application.address)
