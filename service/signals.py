"""Signals of the process.

Imports the standard library only, so that handlers are installed before the rest of the service is loaded.
"""

from __future__ import annotations

import signal
import socket

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP


class Signals:
    """Collects stop and reload signals from its creation on. Create it in the main thread.

    Signals arrive through a socket. An event or queue filled by a handler would not reliably wake the main
    thread: the system may deliver a signal to any thread, and handlers run in the main one only once it
    wakes.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._stop_arrived = False
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, RELOAD_SIGNAL):
            # Without a handler a signal would kill the process.
            signal.signal(number, lambda number, frame: None)

    def wait(self) -> signal.Signals:
        """Waits for the next signal. A stop signal is returned again by every later call."""
        while not self._stop_arrived:
            number = signal.Signals(self._receiver.recv(1)[0])
            self._stop_arrived = number in STOP_SIGNALS
            if number in (*STOP_SIGNALS, RELOAD_SIGNAL):
                return number
        return STOP_SIGNALS[0]

    def is_stop_requested(self) -> bool:
        """Whether a stop signal has arrived. Reload signals before it are dropped."""
        self._receiver.setblocking(False)
        try:
            while not self._stop_arrived:
                self._stop_arrived = self._receiver.recv(1)[0] in STOP_SIGNALS
        except BlockingIOError:
            pass
        finally:
            self._receiver.setblocking(True)
        return self._stop_arrived
