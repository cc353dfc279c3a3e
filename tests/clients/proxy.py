"""A TCP proxy that tests cut, and turn to another service."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

READ_BYTES = 64 * 1024


class Proxy:
    """Forwards connections to `target`, an address like 127.0.0.1:7443."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.accepted = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection without a word of gRPC's; new ones are accepted."""
        with self._lock:
            cut, self._open = self._open, set()
        for each in cut:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self) -> None:
        """Ends every connection and accepts no others."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            host, _, port = self.target.rpartition(":")
            try:
                service = socket.create_connection((host, int(port)))
            except OSError:
                caller.close()
                continue
            with self._lock:
                self._open |= {caller, service}
            for reader, writer in ((caller, service), (service, caller)):
                threading.Thread(target=self._forward, args=(reader, writer), daemon=True).start()

    def _forward(self, reader: socket.socket, writer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := reader.recv(READ_BYTES):
                writer.sendall(received)
        for each in (reader, writer):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(target: str) -> Iterator[Proxy]:
    """A proxy in front of a service, for the length of the block."""
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
