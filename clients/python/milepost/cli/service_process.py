"""A service as a child process."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from milepost.cli.serve import service_command
from milepost.client import Client

HOST = "127.0.0.1"
START_SECONDS_MAX = 120.0
"""Long, because a store replays its log after a kill."""
STOP_SECONDS_MAX = 30.0
POLL_SECONDS = 0.05
SERVING_CHECK_SECONDS = 1.0


class ServiceDied(Exception):
    """The child process ended or did not become ready; its messages are on standard error."""


class ServiceProcess:
    """`python -m service` on a store in `data`, on 127.0.0.1; port 0 selects a free one.

    Starts on `start` (or entering a `with`), and is stopped gracefully on `stop` (or leaving it).
    """

    def __init__(self, data: Path, *, port: int = 0, flags: Sequence[str] = ()) -> None:
        self.data = data
        self._port = port
        self._flags = flags
        self._child: subprocess.Popen[bytes] | None = None
        self.target = ""

    def __enter__(self) -> ServiceProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the child; ServiceDied when it was not started."""
        return self._running().pid

    def start(self) -> None:
        """Starts the child and waits until it is SERVING; raises ServiceDied."""
        with tempfile.TemporaryDirectory() as scratch:
            port_file = Path(scratch) / "port"
            # A separate session: Ctrl-C in a terminal reaches only this process, which stops the child.
            self._child = subprocess.Popen(
                self._command(port_file), stdout=subprocess.DEVNULL, start_new_session=True
            )
            try:
                self.target = f"{HOST}:{self._read_port(port_file)}"
                self._wait_until_serving()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> int | None:
        """Stops the child gracefully and returns its exit status; None when it was not running."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.terminate()
        try:
            return self._child.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._child = None

    def kill(self) -> int:
        """Kills the child, as a crash would (SIGKILL)."""
        child = self._running()
        child.kill()
        return child.wait()

    def wait(self) -> int:
        """Waits until the child ends by itself, and returns its exit status."""
        return self._running().wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            raise ServiceDied("the service was not started")
        return self._child

    def _command(self, port_file: Path) -> list[str]:
        flags = {"--data-dir": self.data, "--host": HOST, "--port": self._port, "--port-file": port_file}
        pairs = [str(part) for flag in flags.items() for part in flag]
        return [*service_command(), *pairs, *self._flags]

    def _check_running(self) -> None:
        status = self._running().poll()
        if status is not None:
            raise ServiceDied(f"the service ended with status {status}")

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        with Client(self.target) as client:
            while not client.wait_until_serving(SERVING_CHECK_SECONDS):
                # The child may have ended since it reported its port.
                self._check_running()
                if time.monotonic() > deadline:
                    raise ServiceDied(f"no answer from {self.target}")

    def _read_port(self, port_file: Path) -> int:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            self._check_running()
            text = port_file.read_text(encoding="utf-8").strip() if port_file.exists() else ""
            if text:
                return int(text)
            time.sleep(POLL_SECONDS)
        raise ServiceDied("the service did not become ready")
