"""Changes per second that one connection delivers, for each kind of output.

Each line has a new store and service process. All members of an audience are sent as changes, in batches of
500, to a receiver in a process of its own that does next to nothing. The time is from the first batch to the
last; the processor time is the service's, from the activation on, calculation included.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import nats
import redis
from rich import box
from rich.console import Console
from rich.table import Table

from milepost import Client, make_user_update
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import attribute
from milepost.outputs import FileOutput, NatsOutput, OutputKind, RedisOutput, WebhookOutput
from milepost.v1.connection_pb2 import (
    CONNECTION_STATE_ACTIVE,
    CONTENT_MODE_BATCHED,
    CONTENT_MODE_BINARY,
    CONTENT_MODE_STRUCTURED,
    Batching,
    ContentMode,
)
from tests.bench.figures import number
from tests.bench.process import cpu_seconds
from tests.brokers import HOST, NatsServer, RedisServer

BATCH_CHANGES = 500
SECRET = "whsec_" + "A" * 32
LOOPBACK = ("--output-networks", "127.0.0.0/8")
SNAPSHOT_MARKS = 2
"""Events that say where the snapshot of an activation begins and ends."""
POLL_S = 0.02
MICROS_A_SECOND = 1_000_000
ONE_BY_ONE = 20
"""One event a request is that much less work."""


@dataclass(frozen=True)
class Options:
    """`changes` a line; one event a request has fewer. `only` chooses lines by their names."""

    changes: int
    only: str = ""


@dataclass(frozen=True)
class Delivered:
    """One line."""

    way: str
    changes: int
    messages: int
    seconds: float
    service_cpu_seconds: float

    @property
    def per_second(self) -> float:
        return self.changes / self.seconds


@dataclass(frozen=True)
class Arrived:
    """What a receiver counted: events and messages, and the seconds from the first to the last."""

    events: int
    messages: int
    seconds: float


@dataclass(frozen=True)
class Receiver:
    """Where to deliver to, the flags that the service needs for it, and what arrived once all did."""

    output: OutputKind
    arrived: Callable[[], Arrived]
    flags: tuple[str, ...] = ()


OpenReceiver = Callable[[Path], AbstractContextManager[Receiver]]
"""Opens a receiver; files of outputs are below the directory."""


@contextlib.contextmanager
def _file(outputs: Path) -> Iterator[Receiver]:
    """Its time is from the file's first appearance to its last write."""
    path = outputs / "bench" / "out" / "sending.ndjson"

    def arrived() -> Arrived:
        events = path.read_bytes().count(b"\n")
        status = path.stat()
        return Arrived(events, -(-events // BATCH_CHANGES), status.st_mtime - _birth(path))

    yield Receiver(FileOutput(path="out"), arrived, ("--output-dir", str(outputs)))


def _birth(path: Path) -> float:
    """When the first line of a file was written: its directory was made right before."""
    return path.parent.stat().st_mtime


@contextlib.contextmanager
def _nats(outputs: Path) -> Iterator[Receiver]:
    """Its time is between the instants that the server stored the first and the last message."""
    with NatsServer(outputs / "nats") as server, asyncio.Runner() as runner:
        client = runner.run(nats.connect(server.url))
        stream = client.jetstream()
        runner.run(stream.add_stream(name="CHANGES", subjects=["changes"]))

        async def stored() -> Arrived:
            state = (await stream.stream_info("CHANGES")).state
            ends = [await stream.get_msg("CHANGES", seq) for seq in (state.first_seq, state.last_seq)]
            first, last = (each.time for each in ends)
            assert first is not None
            assert last is not None
            return Arrived(state.messages, state.messages, (last - first).total_seconds())

        yield Receiver(
            NatsOutput(servers=server.url, subject="changes"), lambda: runner.run(stored()), LOOPBACK
        )
        runner.run(client.close())


@contextlib.contextmanager
def _redis(outputs: Path) -> Iterator[Receiver]:
    """Its time is between the ids of the first and the last entry, which are milliseconds."""
    # Without a sync for each transaction, which measures the disk.
    with (
        RedisServer(outputs / "redis", "--appendfsync", "everysec") as server,
        redis.Redis(HOST, server.port, decode_responses=True) as client,
    ):

        def stored() -> Arrived:
            ends = (*client.xrange("changes", count=1), *client.xrevrange("changes", count=1))
            first, last = (int(number_.partition("-")[0]) for number_, _ in ends)
            length = client.xlen("changes")
            return Arrived(length, length, (last - first) / 1_000)

        yield Receiver(RedisOutput(url=server.url, stream="changes"), stored, LOOPBACK)


def _webhook(mode: ContentMode.ValueType) -> OpenReceiver:
    @contextlib.contextmanager
    def opened(outputs: Path) -> Iterator[Receiver]:
        receiver = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.http_receiver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())

        def arrived() -> Arrived:
            counts = json.loads(receiver.communicate()[0])
            return Arrived(counts["events"], counts["requests"], counts["last"] - counts["first"])

        try:
            output = WebhookOutput(url=f"http://127.0.0.1:{port}/", secret=SECRET, mode=mode)
            yield Receiver(output, arrived, LOOPBACK)
        finally:
            receiver.kill()
            receiver.wait()

    return opened


RECEIVERS: dict[str, tuple[OpenReceiver, int]] = {
    "file": (_file, 1),
    "nats": (_nats, 1),
    "redis": (_redis, 1),
    "webhook, batched": (_webhook(CONTENT_MODE_BATCHED), 1),
    "webhook, structured": (_webhook(CONTENT_MODE_STRUCTURED), ONE_BY_ONE),
    "webhook, binary": (_webhook(CONTENT_MODE_BINARY), ONE_BY_ONE),
}
"""A line each: its receiver, and how many times fewer changes it gets."""


def run(options: Options, console: Console) -> list[Delivered]:
    """Measures each kind, and prints the table."""
    lines = []
    for way, (opened, fewer) in RECEIVERS.items():
        if options.only in way:
            console.print(way, style="dim")
            lines.append(_measured(way, opened, options.changes // fewer))
    console.print(_table(lines))
    return lines


def _measured(way: str, opened: OpenReceiver, changes: int) -> Delivered:
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch:
        directory = Path(scratch)
        with opened(directory / "outputs") as receiver:
            flags = ("--log-level", "warning", *receiver.flags)
            with (
                ServiceProcess(directory / "store", flags=flags) as service,
                Client(service.target, account="bench") as client,
            ):
                _prepare(client, receiver.output, changes)
                before = cpu_seconds(service.pid)
                client.activate_connection("sending")
                _wait(client, changes)
                cpu = cpu_seconds(service.pid) - before
            arrived = receiver.arrived()
    expected = changes + SNAPSHOT_MARKS
    assert arrived.events == expected, f"{arrived.events} events arrived, not {expected}"
    return Delivered(way, changes, arrived.messages, arrived.seconds, cpu)


def _prepare(client: Client, output: OutputKind, changes: int) -> None:
    client.ensure_account()
    client.ensure_input("shop", "web")
    users = (make_user_update(f"user-{number_:07}", {"tier": "gold"}) for number_ in range(changes))
    client.upsert_users(users, input="shop/web")
    client.ensure_journey("tiers")
    client.ensure_milestone("tiers", "gold", criteria=attribute("tier").equals("gold"))
    made = client.ensure_output("receiver", output)
    batching = Batching(max_changes=BATCH_CHANGES)
    client.ensure_connection("sending", target="tiers/gold", output=made.name, batching=batching)


def _wait(client: Client, changes: int) -> None:
    while (connection := client.get_connection("sending")).delivered_sequence < changes:
        assert connection.state == CONNECTION_STATE_ACTIVE, connection.fault
        time.sleep(POLL_S)


def _table(lines: list[Delivered]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"one connection, batches of {BATCH_CHANGES}")
    for column in ("output", "changes", "messages", "changes/s", "CPU of the service a change"):
        table.add_column(column, justify="left" if column == "output" else "right")
    for line in lines:
        table.add_row(
            line.way,
            f"{line.changes:,}",
            f"{line.messages:,}",
            number(line.per_second),
            f"{line.service_cpu_seconds / line.changes * MICROS_A_SECOND:.1f} µs",
        )
    return table
