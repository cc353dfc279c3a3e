"""`python -m tests.bench.http_receiver`: an HTTP endpoint that does as little as it can.

It prints its port, takes every request with 204, and when its input ends prints as JSON how many events and
requests came, and the instants of `time.monotonic()` of the first and the last one. It is a process of its
own, so that its work is not the service's.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass

READ_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_EVENT = b'"specversion"'
_BINARY = re.compile(rb"\r\nce-specversion:", re.IGNORECASE)
_TAKEN = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass
class Counts:
    """What came so far, of one connection at a time."""

    events: int = 0
    requests: int = 0
    first: float = 0.0
    last: float = 0.0


def take_all(connection: socket.socket, counts: Counts) -> None:
    """Takes requests until the connection ends."""
    buffer = b""
    while True:
        head, end, rest = buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and length is not None and len(rest) >= int(length[1]):
            body, buffer = rest[: int(length[1])], rest[int(length[1]) :]
            counts.last = time.monotonic()
            counts.first = counts.first or counts.last
            counts.requests += 1
            counts.events += body.count(_EVENT) or len(_BINARY.findall(head))
            connection.sendall(_TAKEN)
            continue
        read = connection.recv(READ_BYTES)
        if not read:
            return
        buffer += read


def main() -> None:
    """Serves until the input ends."""
    counts = Counts()
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)

        def serve() -> None:
            while True:
                connection, _ = server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection:
                    take_all(connection, counts)

        threading.Thread(target=serve, daemon=True).start()
        sys.stdin.read()
        print(json.dumps(vars(counts)), flush=True)


if __name__ == "__main__":
    main()
