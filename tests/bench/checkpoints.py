"""How long writes and reads wait beside a checkpoint, in the engine: of many tables of events, and of many
users with attributes.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.backends.base import EventRecord, Record, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import EventType
from engine.values import MICROS_PER_SECOND, Value
from service.interpreter import share_interpreter
from tests.bench.figures import Figure, quantile

ACCOUNT = "accounts/a"
INPUT = "accounts/a/workspaces/w/inputs/i"
BATCH_RECORDS = 10_000
SLEEP_SECONDS = 0.002
WARM_UP_SECONDS = 0.5
ROWS_PER_TABLE = 4
EVENT_USERS = 20_011
"""A prime: users and names meet in every combination."""


@dataclass(frozen=True)
class Options:
    """How much there is to write: `names` of events, each of which has a table in every group; `users` with
    `attributes`, half of them numbers and half of them texts that hardly repeat.
    """

    names: int = 1_250
    users: int = 100_000
    attributes: int = 6


def run(options: Options) -> list[Figure]:
    """The figures of both kinds, each for a first checkpoint and for one that writes the same anew."""
    share_interpreter()
    kinds: dict[str, tuple[int, Callable[[int, int], Record]]] = {
        f"events of {options.names:,} names": (
            options.names * LocalSettings().groups * ROWS_PER_TABLE,
            lambda number, now: _event(number, options.names, now),
        ),
        f"{options.users:,} users, {options.attributes} attributes": (
            options.users,
            lambda number, now: _update(number, options, now),
        ),
    }
    return [
        figure for what, (records, record) in kinds.items() for figure in _figures_of(what, records, record)
    ]


def _figures_of(what: str, records: int, record: Callable[[int, int], Record]) -> Iterator[Figure]:
    settings = LocalSettings(checkpoint_s=3_600.0, checkpoint_records=1 << 40)
    with tempfile.TemporaryDirectory() as directory:
        backend = LocalBackend.open(Path(directory), settings=settings)
        for turn in ("first", "again"):
            now = time.time_ns() // 1_000
            for start in range(0, records, BATCH_RECORDS):
                end = min(start + BATCH_RECORDS, records)
                backend.append(ACCOUNT, [record(number, now) for number in range(start, end)])
            beside = _Beside(backend, now + MICROS_PER_SECOND)
            began = time.perf_counter()
            backend.checkpoint()
            seconds = time.perf_counter() - began
            beside.end()
            yield Figure(f"{what}, {turn}: checkpoint", seconds, "s")
            for name, waits in (("a write", beside.writes), ("a read", beside.reads)):
                yield Figure(f"{what}, {turn}: {name}, p99", quantile(sorted(waits), 0.99) * 1e3, "ms")
                yield Figure(f"{what}, {turn}: {name}, at most", max(waits) * 1e3, "ms")
        backend.close()


class _Beside:
    """A thread that writes an event and one that reads a profile, every few milliseconds, until the end."""

    def __init__(self, backend: LocalBackend, now: int) -> None:
        self.writes: list[float] = []
        self.reads: list[float] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._again,
                args=(self.writes, lambda: backend.append(ACCOUNT, [_event(len(self.writes), 1, now)])),
            ),
            threading.Thread(target=self._again, args=(self.reads, lambda: backend.profile(ACCOUNT, "u5"))),
        ]
        for thread in self._threads:
            thread.start()
        time.sleep(WARM_UP_SECONDS)

    def _again(self, waits: list[float], call: Callable[[], object]) -> None:
        while not self._is_over.wait(SLEEP_SECONDS):
            began = time.perf_counter()
            call()
            waits.append(time.perf_counter() - began)

    def end(self) -> None:
        """Stops both."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def _event(number: int, names: int, now: int) -> EventRecord:
    user = number * 7_919 % EVENT_USERS
    return EventRecord(f"u{user}", INPUT, f"n{number % names}", EventType.CUSTOM, now, {"x": 1.0})


def _update(number: int, options: Options, now: int) -> UserRecord:
    values: Sequence[Value] = [
        float((number * 31 + which) % 1_000) if which % 2 else f"text {number * 7 + which + now}"
        for which in range(options.attributes)
    ]
    return UserRecord(f"u{number}", INPUT, now, {f"a{which}": value for which, value in enumerate(values)})
