"""Many connections share a few threads and files, and outputs that are dead hold up no others."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine.audiences.deliveries import Delivery
from engine.resources.targets import File
from milepost.v1 import connection_pb2, connection_service_pb2
from service.delivery import sinks
from service.delivery.sinks.file import FileSink
from service.delivery.sinks.sink import NEVER, Event, SinkError, Surroundings
from tests.harness import ACCOUNT, Serving, eventually, serving
from tests.service.delivery.test_delivery import build, connect, get, set_tier, told

CONNECTIONS = 60
THREADS = 3
OPEN_MAX = 5
DEAD = 6
ATTEMPT_S_MAX = 0.3
SETTINGS: dict[str, Any] = {
    "access_log": "none",
    "delivery_threads": THREADS,
    "open_outputs_max": OPEN_MAX,
    "delivery_attempt_s_max": ATTEMPT_S_MAX,
}


def senders() -> int:
    return sum(thread.name == "sender" for thread in threading.enumerate())


def open_files(directory: Path) -> int:
    """Files below a directory that this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(directory))
        except OSError:
            continue
    return found


def names() -> Iterator[str]:
    return (f"c{number}" for number in range(CONNECTIONS))


def has_told(service: Serving, connection_id: str, count: int) -> bool:
    return len(told(service, connection_id)) == count


def test_threads_and_files_do_not_grow_with_connections(tmp_path: Path) -> None:
    with serving(tmp_path / "store", **SETTINGS) as service:
        audience = build(service)
        for name in names():
            connect(service, audience, name)
        eventually(lambda: all(len(told(service, name)) == 3 for name in names()))
        files = []
        for count in range(4, 7):
            set_tier(service, ["u4"], "silver" if count % 2 else "gold")
            eventually(lambda: all(has_told(service, name, count) for name in names()))  # noqa: B023
            files.append(open_files(service.outputs))
        assert senders() == THREADS
        # Others than the last ones may be open only while they are written to.
        assert max(files) <= OPEN_MAX + THREADS
        eventually(lambda: open_files(service.outputs) <= OPEN_MAX)
        for name in names():
            sequences = [event["data"]["sequence"] for event in service.delivered("exports", name)]
            assert sequences == sorted(sequences)
            assert told(service, name)[3:] == [("u4", "entered"), ("u4", "exited"), ("u4", "entered")]
        eventually(lambda: all(get(service, name).delivered_sequence == 6 for name in names()))
    assert senders() == 0


class Dead:
    """A sink of a receiver that takes no batch: it waits as long as it may."""

    running: ClassVar[Counter[str]] = Counter()
    failures: ClassVar[Counter[str]] = Counter()
    most_at_once: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()
    is_open = False

    def __init__(self, connection: str) -> None:
        self._connection = connection

    def deliver(self, events: Sequence[Event], deadline: float) -> None:
        with Dead.lock:
            Dead.running[self._connection] += 1
            assert Dead.running[self._connection] == 1
            if min(Dead.failures.values(), default=0) and len(Dead.failures) == DEAD:
                Dead.most_at_once = max(Dead.most_at_once, Dead.running.total())
        time.sleep(max(0.0, deadline - time.monotonic()))
        with Dead.lock:
            Dead.running[self._connection] -= 1
            Dead.failures[self._connection] += 1
        raise SinkError("nobody answers", retry_after_s=0.05)

    def tend(self) -> float:
        return NEVER

    def close(self) -> None:
        pass


def open_either(delivery: Delivery, surroundings: Surroundings) -> Any:
    target = delivery.output.target
    assert isinstance(target, File)
    return Dead(delivery.connection.name) if target.path == "dead" else FileSink.open(delivery, surroundings)


def test_dead_outputs_hold_up_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more of them than threads; each attempt holds a thread as long as it may."""
    monkeypatch.setitem(sinks.SINKS, File, open_either)
    with serving(tmp_path / "store", retry_budget_s=600.0, **SETTINGS) as service:
        audience = build(service)
        service.connections.CreateOutput(
            connection_service_pb2.CreateOutputRequest(
                parent=ACCOUNT,
                output_id="dead",
                output=connection_pb2.Output(file=connection_pb2.FileOutput(path="dead")),
            )
        )
        for number in range(DEAD):
            connect(service, audience, f"dead{number}", "dead")
        eventually(lambda: len(Dead.failures) == DEAD)
        before = [get(service, f"dead{number}") for number in range(DEAD)]
        connect(service, audience, "alive")
        eventually(lambda: len(told(service, "alive")) == 3)
        for count in range(4, 9):
            set_tier(service, ["u4"], "silver" if count % 2 else "gold")
            eventually(partial(has_told, service, "alive", count))
        eventually(lambda: min(Dead.failures.values()) >= 3)
        assert Dead.most_at_once <= THREADS // 2
        after = [get(service, f"dead{number}") for number in range(DEAD)]
        for connection in (*before, *after):
            connection.ClearField("delivery")
        assert after == before
