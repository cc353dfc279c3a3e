"""The port that readers share, and the socket on which the writer listens.

The kernel spreads connections over all sockets that listen on one port with SO_REUSEPORT. This process holds
such a socket without listening: the port stays taken while a reader is replaced, and another service on the
same port is refused, as it is without readers.
"""

from __future__ import annotations

import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SOCKET_NAME = "writer.sock"
SOCKET_PATH_BYTES_MAX = 100
"""The system allows 107 bytes."""


class SharedPort:
    """A port of this machine, held until `close`. `port` 0 picks a free one. Raises OSError when it is
    taken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._held = ExitStack()
        self.port = port
        try:
            for family, address in _addresses(host, port):
                self._hold(family, (address[0], self.port, *address[2:]))
        except BaseException:
            self._held.close()
            raise

    def _hold(self, family: int, address: tuple[Any, ...]) -> None:
        held = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Connections of a service that has just ended do not count; any other socket with the port does.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(address)
        # From here on the port is shared with those that share it too.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.port = held.getsockname()[1]

    def close(self) -> None:
        """Lets go of the port."""
        self._held.close()


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    found = socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    return [(family, address) for family, _, _, _, address in found]


class WriterSocket:
    """The path of the writer's socket: in the data directory, or in a new private one when there is none or
    that path is too long for a socket.
    """

    def __init__(self, directory: Path | None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        path = None if directory is None else directory.absolute() / SOCKET_NAME
        if path is None or len(str(path).encode()) > SOCKET_PATH_BYTES_MAX:
            self._temporary = tempfile.TemporaryDirectory(prefix="milepost-")
            path = Path(self._temporary.name) / SOCKET_NAME
        self.path = path

    def close(self) -> None:
        """Removes the socket."""
        self.path.unlink(missing_ok=True)
        if self._temporary is not None:
            self._temporary.cleanup()
