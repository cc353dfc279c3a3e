"""Servers of brokers for tests: real processes on 127.0.0.1, each over a directory of its own.

    with RedisServer(tmp_path) as server:
        server.kill()
        server.start()

A server keeps its port and its data when it is stopped or killed and started again.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the ports that systems give to clients, so that one is still free when its server starts again."""
START_S_MAX = 60.0
PORT_ATTEMPTS_MAX = 20


def program(name: str) -> str:
    """The path of a server's program: of the environment, or of the system. Skips the test without one."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; `make env` installs it")
    return found


class Server(ABC):
    """A process that listens on a port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def command(self, port: int) -> Sequence[str]:
        """What to run."""

    def start(self) -> None:
        """Starts it on the port it had, the first time on a free one, and waits until it is ready."""
        for _ in range(PORT_ATTEMPTS_MAX):
            port = self.port or random.choice(PORTS)
            if self._started(port):
                self.port = port
                return
        raise AssertionError(f"did not start: {self.log()}")

    def _started(self, port: int) -> bool:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory
            )
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.is_ready(port):
                # Another process may have the port, and this one may just be about to end.
                return self._process.poll() is None
            time.sleep(0.02)
        self.stop()
        return False

    def is_ready(self, port: int) -> bool:
        """Whether it accepts connections."""
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 5):
            return True
        return False

    def stop(self) -> None:
        """Asks it to end, and waits."""
        self._end(lambda process: process.terminate())

    def kill(self) -> None:
        """Ends it at once, and waits."""
        self._end(lambda process: process.kill())

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        process, self._process = self._process, None
        if process is not None:
            how(process)
            try:
                process.wait(START_S_MAX)
            finally:
                process.kill()
                process.wait()

    def log(self) -> str:
        """What it wrote since it was started."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")


class RedisServer(Server):
    """A Redis server that syncs each write."""

    def __init__(self, directory: Path, *settings: str) -> None:
        super().__init__(directory)
        self._settings = settings

    def command(self, port: int) -> Sequence[str]:
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        place = ["--bind", HOST, "--port", str(port), "--dir", str(self.directory)]
        return [program("redis-server"), *place, *durable, *self._settings]

    def is_ready(self, port: int) -> bool:
        """Whether it has read its data. It says so in its log, so no password is needed."""
        return "Ready to accept connections" in self.log()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"


class NatsServer(Server):
    """A NATS server with JetStream. `settings` is a part of its configuration file."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        super().__init__(directory)
        self._file = directory / "nats.conf"
        store = json.dumps(str(directory / "store"))
        self._file.write_text(f"jetstream {{ store_dir: {store} }}\n{settings}", encoding="utf-8")

    def command(self, port: int) -> Sequence[str]:
        return [program("nats-server"), "-a", HOST, "-p", str(port), "-c", str(self._file)]

    def is_ready(self, port: int) -> bool:
        """Whether it has read its streams."""
        return "Server is ready" in self.log()

    @property
    def url(self) -> str:
        return f"nats://{HOST}:{self.port}"


@contextlib.contextmanager
def free_port() -> Iterator[int]:
    """A port where nothing listens, as long as the context lasts."""
    with socket.socket() as held:
        held.bind((HOST, 0))
        yield held.getsockname()[1]


class Relay:
    """Passes bytes between clients and a server, until it has to keep answers back."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._server_port = port
        self._tls = tls
        self._dropping = False
        self._close = True
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_answers(self, *, close: bool = True) -> None:
        """From now on clients get no answer; `close`: their connection ends in place of it."""
        self._dropping, self._close = True, close

    def pass_answers(self) -> None:
        """Passes answers again, for new connections."""
        self._dropping = False

    def end(self) -> None:
        """Ends all connections."""
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if self._tls is not None:
                client = self._tls.wrap_socket(client, server_side=True)
                self._sockets.append(client)
            server = socket.create_connection((HOST, self._server_port))
            self._sockets.append(server)
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            self._pass(server, client, True)

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not (answers and self._dropping):
                    sink.sendall(data)
                elif self._close:
                    break
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay(port: int, tls: ssl.SSLContext | None = None) -> Iterator[Relay]:
    """A relay to a server of this machine, which speaks TLS to its clients when there is a context."""
    between = Relay(port, tls)
    try:
        yield between
    finally:
        between.end()
