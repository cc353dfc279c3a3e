"""A reader process in reserve: it has loaded everything and waits for its first message.

Loading takes a second and more, in which nobody listens when the only reader has ended. With one process in
reserve a reader is replaced in a fraction of that.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

COMMAND = (sys.executable, "-P", "-m", "service.readers")
END_S_MAX = 5.0


class Spare:
    """Starts reader processes, one of them in advance. Safe to call from several threads."""

    def __init__(self, *descriptors: int) -> None:
        """The descriptors are those that readers inherit."""
        self._descriptors = descriptors
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Process id of the one in reserve; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def prepare(self) -> None:
        """Starts a process in advance, unless there is one."""
        with self._lock:
            if not self._closed and self._running() is None:
                self._process = self._start()

    def take(self) -> subprocess.Popen[bytes]:
        """A process that waits for its first message: the one in reserve, or a new one."""
        with self._lock:
            process, self._process = self._running(), None
            return self._start() if process is None else process

    def close(self) -> None:
        """Ends the process in reserve."""
        with self._lock:
            process, self._process = self._process, None
            self._closed = True
        if process is None:
            return
        with to_its_end(process):
            # The end of its input ends it.
            input_of(process).close()
            try:
                process.wait(END_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()

    def _running(self) -> subprocess.Popen[bytes] | None:
        """The process in reserve, if it still runs."""
        process = self._process
        if process is None or process.poll() is None:
            return process
        with to_its_end(process):
            self._process = None
        return None

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=self._descriptors,
            # An interrupt at the terminal is for the service, which stops its readers.
            start_new_session=True,
        )


@contextmanager
def to_its_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Closes what is open to a process, and waits for its end. What it did not take before is dropped."""
    try:
        yield process
    finally:
        with suppress(BrokenPipeError), process:
            pass


def input_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    """The reader's standard input, which takes its messages."""
    assert process.stdin is not None
    return process.stdin
