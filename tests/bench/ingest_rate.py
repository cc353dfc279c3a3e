"""Acknowledged events per second, compared with how fast Python can read the same bytes.

Each line of the table has a new store and service process. The bytes are prepared before measuring and sent
unchanged, so the caller costs almost nothing. Each batch is acknowledged after its fsync, with a few in
flight.
"""

from __future__ import annotations

import itertools
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import lmdb
from rich import box
from rich.console import Console
from rich.table import Table

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from milepost.v1.ingest_service_pb2 import IngestEventsResponse, StreamEventsResponse
from tests.bench.event_batches import Batches, encode, parsed_per_second, read_per_second
from tests.bench.figures import number
from tests.bench.process import children_cpu_seconds, cpu_seconds

SERVICE = "/milepost.v1.IngestService"
BATCH_EVENTS = 5_000
CONNECTIONS = 4
WINDOW = 4
"""Batches of a stream that are sent and not yet acknowledged."""
CALL_SECONDS = 120.0
MICROS_A_SECOND = 1_000_000
# Channels with the same options would share one connection.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

Send = Callable[[str, Batches], int]
"""Sends all batches to an address and returns the number of accepted events."""


@dataclass(frozen=True)
class Options:
    """`events` per line of the table."""

    events: int


@dataclass(frozen=True)
class Read:
    """Events per second that an idle Python process reads from the same bytes."""

    have_event_ids: bool
    bytes_an_event: float
    parsed_per_second: float
    read_per_second: float


@dataclass(frozen=True)
class Ingested:
    """One line: events acknowledged in a number of seconds, and the cost of reading the bytes.

    `service_cpu_seconds` is the processor time of the service until the last acknowledgement,
    `checkpointed_cpu_seconds` that until it has stopped, with everything in the index.
    """

    way: str
    events: int
    batches: int
    seconds: float
    service_cpu_seconds: float
    checkpointed_cpu_seconds: float
    commits: int
    read: Read

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def ratio(self) -> float:
        """Share of the rate at which the bytes are parsed and read."""
        return self.per_second / self.read.read_per_second


def run(options: Options, console: Console) -> list[Ingested]:
    """Measures both kinds of events over every way, and prints the table."""
    lines = []
    for have_event_ids in (False, True):
        console.print(f"making batches {'with' if have_event_ids else 'without'} event ids", style="dim")
        with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch:
            site = Site(Path(scratch))
            batches = encode(
                options.events,
                BATCH_EVENTS,
                parent=site.parent,
                input=site.input,
                have_event_ids=have_event_ids,
            )
            read = Read(
                have_event_ids,
                batches.bytes_an_event,
                parsed_per_second(batches),
                read_per_second(batches),
            )
            for way, send in WAYS.items():
                console.print(way, style="dim")
                lines.append(_measured(site, way, send, batches, read))
    console.print(_table(options, lines))
    return lines


class Site:
    """The directory of the stores, and the names used in the batches."""

    parent = "accounts/bench"
    input = f"{parent}/workspaces/shop/inputs/web"

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._stores = itertools.count()

    @contextmanager
    def service(self) -> Iterator[tuple[ServiceProcess, Client]]:
        """A service on a new store that has the input."""
        store = self._scratch / f"store-{next(self._stores)}"
        service = ServiceProcess(store, flags=("--log-level", "warning"))
        with service, Client(service.target, account="bench") as client:
            client.ensure_account()
            client.ensure_input("shop", "web")
            yield service, client


def _measured(site: Site, way: str, send: Send, batches: Batches, read: Read) -> Ingested:
    with site.service() as (service, client):
        commits, idle_cpu = commits_of_the_log(service.data), cpu_seconds(service.pid)
        started = time.perf_counter()
        accepted = send(service.target, batches)
        seconds = time.perf_counter() - started
        cpu = cpu_seconds(service.pid) - idle_cpu
        commits = commits_of_the_log(service.data) - commits
        stored = client.admin.GetServerInfo(GetServerInfoRequest()).events
        before = children_cpu_seconds()
        service.stop()
        checkpointed_cpu = children_cpu_seconds() - before - idle_cpu
    assert accepted == stored == batches.events, f"{accepted} accepted, {stored} stored"
    return Ingested(way, batches.events, len(batches.unary), seconds, cpu, checkpointed_cpu, commits, read)


def commits_of_the_log(store: Path) -> int:
    """Commits of the log's file, including trims: each is an fsync."""
    with lmdb.open(str(store / "log"), readonly=True, lock=False) as environment:
        return int(environment.info()["last_txnid"])


# --- ways to send ---


def _unary(target: str, batches: Batches) -> int:
    """IngestEvents over several connections, each with one call at a time."""
    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    for encoded in batches.unary:
        waiting.put(encoded)

    def send() -> int:
        accepted = 0
        with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
            ingest = channel.unary_unary(
                f"{SERVICE}/IngestEvents",
                request_serializer=bytes,
                response_deserializer=IngestEventsResponse.FromString,
            )
            while True:
                try:
                    encoded = waiting.get_nowait()
                except queue.Empty:
                    return accepted
                accepted += ingest(encoded, timeout=CALL_SECONDS).accepted

    return _at_a_time(CONNECTIONS, [send] * CONNECTIONS)


def _streams(streams: int) -> Send:
    def send(target: str, batches: Batches) -> int:
        shares = [batches.streamed[stream::streams] for stream in range(streams)]
        return _at_a_time(streams, [partial(_stream, target, share) for share in shares])

    return send


def _stream(target: str, encoded: Sequence[bytes]) -> int:
    """StreamEvents over a separate connection, with at most `WINDOW` batches not acknowledged."""
    room = threading.Semaphore(WINDOW)

    def requests() -> Iterator[bytes]:
        for each in encoded:
            room.acquire()
            yield each

    accepted = 0
    with grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel:
        stream = channel.stream_stream(
            f"{SERVICE}/StreamEvents",
            request_serializer=bytes,
            response_deserializer=StreamEventsResponse.FromString,
        )
        for response in stream(requests()):
            accepted += response.result.accepted
            room.release()
    return accepted


def _at_a_time(threads: int, senders: Sequence[Callable[[], int]]) -> int:
    with ThreadPoolExecutor(threads) as pool:
        return sum(future.result() for future in [pool.submit(send) for send in senders])


WAYS: dict[str, Send] = {
    f"IngestEvents, {CONNECTIONS} connections": _unary,
    "StreamEvents, 1 stream": _streams(1),
    f"StreamEvents, {CONNECTIONS} streams": _streams(CONNECTIONS),
}


# --- the table ---


def _table(options: Options, lines: Sequence[Ingested]) -> Table:
    title = f"Ingest of {options.events:,} events in batches of {BATCH_EVENTS:,}, acknowledged after fsync"
    # Narrow enough for a pipe, which is 80 columns wide; CPU is for an event, commits for a batch.
    shown = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    for heading in ("events/s", "ratio", "CPU, µs", "checkpointed", "commits"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for read, of_read in itertools.groupby(lines, key=lambda line: line.read):
        ids = "event ids" if read.have_event_ids else "no event ids"
        shown.add_row(f"{ids}, {read.bytes_an_event:.0f} bytes/event", style="bold")
        for what, per_second in (
            ("ParseFromString alone", read.parsed_per_second),
            ("parsed, and every field read", read.read_per_second),
        ):
            ratio = per_second / read.read_per_second
            shown.add_row(what, number(per_second), f"{ratio:.2f}", number(MICROS_A_SECOND / per_second))
        for line in of_read:
            shown.add_row(
                line.way,
                number(line.per_second),
                f"{line.ratio:.2f}",
                number(line.service_cpu_seconds / line.events * MICROS_A_SECOND),
                number(line.checkpointed_cpu_seconds / line.events * MICROS_A_SECOND),
                f"{line.commits / line.batches:.2f}",
            )
        shown.add_section()
    return shown
