"""The writer's side: starts readers, replaces one that ends, and stops them all before the writer ends."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec
import structlog

from engine import Engine
from engine.backends import registry
from engine.backends.base import ServingWriter
from engine.errors import StoreUnavailable
from engine.measures import Counter, DurationCounts, Measure, counted, gauge
from service.auth.running import RunningCalls
from service.config import Config
from service.draining import CALLS_END_S_MAX
from service.readers.messages import READY, Answered, Health, Message, Reload, Start, Stop, send, settings_of
from service.readers.spare import Spare, input_of, to_its_end

START_ATTEMPTS = 3
"""Processes of a reader that may end before the first one serves."""
START_LOG_S = 10.0
"""How often a line says that a reader is still starting."""
END_S_MAX = CALLS_END_S_MAX + 5.0
"""Maximum time for a reader to end after its grace period; then it is killed."""
STEADY_S = 10.0
"""A reader that served for this long is replaced at once."""
RESTART_S_MIN = 0.1
RESTART_S_MAX = 10.0
"""Pause before a reader that did not serve for `STEADY_S` is replaced; it doubles with each one."""

CountCalls: TypeAlias = Callable[[str, DurationCounts], None]
"""Takes a method and calls of it that were answered with OK."""

_logger = structlog.get_logger("milepost.readers")


def measures_of(running: int, replaced: Counter) -> Iterator[Measure]:
    """What is counted of readers, also of a service without any."""
    yield gauge("readers", "Reader processes that run.", running)
    yield counted("readers_replaced_total", "Reader processes that ended and were replaced.", replaced)


class Readers:
    """The readers of one service."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        serving: ServingWriter,
        *,
        port: int,
        writer_socket: Path,
        running: RunningCalls,
        health: Callable[[], Mapping[str, int]],
        count: CountCalls,
    ) -> None:
        """`health` gives the status of each service. `count` takes calls that readers answered."""
        self._count = count
        self._replaced = Counter()
        self._config = config
        self._engine = engine
        self._serving = serving
        self._port = port
        self._writer_socket = writer_socket
        self._running = running
        self._health = health
        self.spare = Spare(serving.descriptor, running.descriptor)
        self._stopping = threading.Event()
        self._readers = [_Reader(self, number) for number in range(1, config.reader_count + 1)]

    @property
    def pids(self) -> list[int]:
        """Process ids of the readers that run."""
        return [reader.pid for reader in self._readers if reader.pid is not None]

    def start(self) -> None:
        """Starts the readers and waits until all serve, however slow the machine is. Raises StoreUnavailable
        when one ends instead, again and again.
        """
        for reader in self._readers:
            reader.start()
        for reader in self._readers:
            while not reader.serves.wait(START_LOG_S):
                _logger.warning("reader still starting", reader=reader.number, pid=reader.pid)
            if reader.cannot_start:
                raise StoreUnavailable(
                    f"reader {reader.number} ended {START_ATTEMPTS} times before it served; its log says why"
                )

    def tell_health(self, service: str, status: int) -> None:
        """Tells every reader the health of a service."""
        for reader in self._readers:
            reader.tell(Health(service, status))

    def reload(self) -> None:
        """Has every reader read the TLS files again."""
        for reader in self._readers:
            reader.tell(Reload())

    def stop(self) -> None:
        """Stops every reader and waits until all have ended."""
        self._stopping.set()
        for reader in self._readers:
            reader.tell(Stop())
        deadline = time.monotonic() + self._config.stop_grace_s + END_S_MAX
        for reader in self._readers:
            reader.end(deadline)
        self.spare.close()

    @property
    def stopping(self) -> threading.Event:
        """Set once readers are not replaced any more."""
        return self._stopping

    def first_message(self, number: int) -> Start:
        """What a new reader of that number receives first."""
        backend, _ = registry.split_url(self._config.store_url)
        return Start(
            settings=settings_of(self._config),
            port=self._port,
            backend=backend,
            memory=self._serving.descriptor,
            running=self._running.descriptor,
            number=number,
            writer_socket=str(self._writer_socket),
            store_id=self._engine.backend.store_id,
            token_secret=self._engine.signer.secret,
            health=self._health(),
        )

    def count(self, line: bytes) -> None:
        """Counts the calls that a reader reports."""
        try:
            answered = Answered.of(line)
        except msgspec.MsgspecError:
            # A reader that was killed may leave a part of a line.
            return
        self._count(answered.method, answered.calls)

    def forget_calls(self, number: int) -> None:
        """The calls of a reader have ended with it."""
        self._running.forget(number)

    def ended(self) -> None:
        """Counts a reader that ended and is replaced."""
        self._replaced.add()

    def measures(self) -> Iterator[Measure]:
        """Readers that run, and those that were replaced."""
        return measures_of(len(self.pids), self._replaced)


class _Reader:
    """One reader and its replacements, followed by a thread."""

    def __init__(self, readers: Readers, number: int) -> None:
        self._readers = readers
        self.number = number
        self.serves = threading.Event()
        """Set once a process serves, or `cannot_start`."""
        self.cannot_start = False
        self._attempts = 0
        """Processes that ended before the first one served."""
        self._process: subprocess.Popen[bytes] | None = None
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._follow, name=f"reader-{number}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id; None while none runs."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def tell(self, message: Message) -> None:
        """Sends a message to the process. One that has ended needs none: the next gets the current state."""
        with self._telling:
            process = self._process
            if process is None:
                return
            try:
                send(input_of(process), message)
            except (OSError, ValueError):
                return

    def end(self, deadline: float) -> None:
        """Waits for the process until the deadline, then kills it."""
        if self._thread.ident is None:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))
        process = self._process
        if self._thread.is_alive() and process is not None:
            _logger.error("reader killed: it did not end in time", reader=self.number, pid=process.pid)
            process.kill()
        self._thread.join()

    def _follow(self) -> None:
        pause_s = RESTART_S_MIN
        while not self._readers.stopping.is_set():
            began = time.monotonic()
            status = self._run_once()
            if self._readers.stopping.is_set():
                return
            self._readers.ended()
            if time.monotonic() - began >= STEADY_S:
                pause_s = RESTART_S_MIN
                pause_now_s = 0.0
            else:
                pause_now_s, pause_s = pause_s, min(2 * pause_s, RESTART_S_MAX)
            _logger.warning(
                "reader ended; starting another", reader=self.number, status=status, pause_s=pause_now_s
            )
            self._readers.stopping.wait(pause_now_s)

    def _run_once(self) -> int:
        """Runs one process to its end and returns its exit status."""
        with to_its_end(self._readers.spare.take()) as process:
            with self._telling:
                self._process = process
                try:
                    send(input_of(process), self._readers.first_message(self.number))
                except (OSError, ValueError):
                    process.kill()
            if self._readers.stopping.is_set():
                # The stop may have come before there was a process to tell.
                self.tell(Stop())
            assert process.stdout is not None
            if process.stdout.readline().strip() == READY.encode():
                self.serves.set()
                _logger.info("reader ready", reader=self.number, pid=process.pid)
                self._readers.spare.prepare()
            elif not self.serves.is_set():
                self._attempts += 1
                if self._attempts >= START_ATTEMPTS:
                    self.cannot_start = True
                    self.serves.set()
            for line in process.stdout:
                self._readers.count(line)
            status = process.wait()
            with self._telling:
                self._process = None
            self._readers.forget_calls(self.number)
            return status
