"""How long a bystander's check takes while others keep the service busy.

One caller checks one user after another, in a milestone of ten criteria and in an activated one. Beside it
run, in turn: nothing, another program that computes and never calls, loops of counts and of estimates, ingest
at a fixed rate, exports, and verifications. The other program shows what the machine alone does to a check
when one of its cores is busy. Each count and estimate is as of another instant, so that no answer is cached.
The loads take turns in several rounds; figures are medians over these, since an idle machine is not always
equally fast.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import NamedTuple

import grpc
from rich import box
from rich.console import Console
from rich.table import Table

from milepost import Client, make_event
from milepost.cli.service_process import ServiceProcess
from milepost.outputs import WatchOutput
from milepost.v1 import audience_pb2
from milepost.v1.admin_service_pb2 import VerifyStoreRequest
from milepost.v1.admin_service_pb2_grpc import AdminServiceStub
from milepost.v1.audience_service_pb2 import (
    CheckMembershipRequest,
    CountAudienceRequest,
    EstimateAudienceRequest,
    ExportMembersRequest,
)
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from tests.bench import interpreter_waits, lock_holds
from tests.bench.figures import number, quantile
from tests.bench.interpreter_waits import Wait
from tests.bench.lock_holds import Hold
from tests.bench.marketing_world import ACCOUNT_ID, INPUT, JOURNEY, NOW, Scale, open_engine
from tests.bench.sizes import LAST_ID, journey

COUNTS = 12
ESTIMATES = 4
EVENTS_A_SECOND = 5_000
BATCH_EVENTS = 250
WARM_UP_SECONDS = 1.0
ACTIVATED = f"{JOURNEY}/milestones/level-1-1"
NOT_ACTIVATED = f"{JOURNEY}/milestones/{LAST_ID}"
MICROS_A_SECOND = 1_000_000
ACTIVATION_SECONDS_MAX = 300.0

Ended = multiprocessing.synchronize.Event
Load = Callable[[str, Ended], None]


@dataclass(frozen=True, kw_only=True)
class Options:
    """`seconds` are measured beside each load, in each round; `keep` is a directory to keep the filled store
    in. `readers` are the processes that answer checks beside the one with the store.
    """

    scale: Scale
    seconds: float = 4.0
    rounds: int = 3
    readers: int = 0
    keep: Path | None = None


class Quantiles(NamedTuple):
    """Of the latencies of checks, in seconds. `times_idle` is p99 relative to that of the same round without
    a load.
    """

    p50: float
    p99: float
    times_idle: float
    checks: int


@dataclass(frozen=True, kw_only=True)
class Latencies:
    """Sorted latencies of checks of a round, in seconds."""

    not_activated: list[float]
    activated: list[float]


@dataclass(frozen=True, kw_only=True)
class Line:
    """What checks took beside a load: medians over the rounds, and all checks."""

    beside: str
    not_activated: Quantiles
    activated: Quantiles


def run(options: Options, console: Console) -> list[Line]:
    """Fills the store if needed, measures beside each load, and prints the tables."""
    with _directory(options) as directory:
        engine = open_engine(directory, options.scale)
        holds = lock_holds.measure(engine, journey(engine))
        waits = interpreter_waits.measure(engine, options.seconds)
        engine.close()
        console.print(_holds_table(options.scale, holds))
        console.print(_waits_table(options.scale, waits))
        data = directory / options.scale.directory
        flags = ("--log-level", "error", "--readers", str(options.readers))
        with (
            ServiceProcess(data, flags=flags) as service,
            Client(service.target, account=ACCOUNT_ID) as client,
        ):
            _activate(client)
            rounds = [_round(service.target, options.seconds) for _ in range(options.rounds)]
    found = [_line(beside, rounds) for beside in LOADS]
    console.print(_table(options, found))
    return found


@contextmanager
def _directory(options: Options) -> Iterator[Path]:
    if options.keep is not None:
        yield options.keep
    else:
        with tempfile.TemporaryDirectory(prefix="milepost-bystander-") as temporary:
            yield Path(temporary)


def _activate(client: Client) -> None:
    output = client.ensure_output("watch", WatchOutput())
    connection = client.ensure_connection("watching", target=ACTIVATED, output=output.name)
    client.activate_connection(connection.name)
    audience = client.get_milestone(ACTIVATED).audience
    latest = time.monotonic() + ACTIVATION_SECONDS_MAX
    while client.get_audience(audience).size.kind != audience_pb2.SIZE_KIND_REAL:
        assert time.monotonic() < latest, "the activated milestone was not calculated"
        time.sleep(0.2)


# --- measuring ----------------------------------------------------------------------------------------------


def _round(target: str, seconds: float) -> dict[str, Latencies]:
    return {beside: _measure(target, seconds, beside, load) for beside, load in LOADS.items()}


def _measure(target: str, seconds: float, beside: str, load: Load | None) -> Latencies:
    """Checks for some seconds beside a load."""
    with _under_load(target, beside, load), grpc.insecure_channel(target) as channel:
        check = AudienceServiceStub(channel).CheckMembership
        _check_for(WARM_UP_SECONDS, check, ACTIVATED)
        not_activated = _check_for(seconds / 2, check, NOT_ACTIVATED)
        activated = _check_for(seconds / 2, check, ACTIVATED)
    return Latencies(not_activated=not_activated, activated=activated)


def _line(beside: str, rounds: list[dict[str, Latencies]]) -> Line:
    return Line(
        beside=beside,
        not_activated=_quantiles([(each[beside].not_activated, each[IDLE].not_activated) for each in rounds]),
        activated=_quantiles([(each[beside].activated, each[IDLE].activated) for each in rounds]),
    )


def _quantiles(rounds: list[tuple[list[float], list[float]]]) -> Quantiles:
    """Of the latencies of each round, and those without a load in the same round."""
    return Quantiles(
        p50=median(quantile(ordered, 0.5) for ordered, _ in rounds),
        p99=median(quantile(ordered, 0.99) for ordered, _ in rounds),
        times_idle=median(quantile(ordered, 0.99) / quantile(idle, 0.99) for ordered, idle in rounds),
        checks=sum(len(ordered) for ordered, _ in rounds),
    )


@contextmanager
def _under_load(target: str, beside: str, load: Load | None) -> Iterator[None]:
    """Runs a load in a process of its own, until the block ends."""
    if load is None:
        yield
        return
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    child = context.Process(target=load, args=(target, ended))
    child.start()
    try:
        yield
    finally:
        ended.set()
        child.join()
    assert child.exitcode == 0, f"the load failed: {beside}"


def _check_for(seconds: float, check: Callable[..., object], milestone: str) -> list[float]:
    request = CheckMembershipRequest(audience=milestone)
    if milestone == NOT_ACTIVATED:
        request.as_of.FromMicroseconds(NOW)
    taken = []
    end = time.perf_counter() + seconds
    user = 0
    started = time.perf_counter()
    while started < end:
        user += 1
        request.user_id = f"u{user}"
        check(request)
        finished = time.perf_counter()
        taken.append(finished - started)
        started = finished
    return sorted(taken)


# --- loads --------------------------------------------------------------------------------------------------


def compute(_target: str, ended: Ended) -> None:
    """A loop that calls no one."""
    while not ended.is_set():
        sum(range(10_000))


def count(target: str, ended: Ended) -> None:
    """Loops of exact counts, each as of another instant."""

    def ask(stub: AudienceServiceStub, turn: int) -> None:
        request = CountAudienceRequest(name=NOT_ACTIVATED)
        request.as_of.FromMicroseconds(NOW + turn * MICROS_A_SECOND)
        stub.CountAudience(request)

    _loops(target, ended, COUNTS, ask)


def estimate(target: str, ended: Ended) -> None:
    """Loops of estimates, each as of another instant."""

    def ask(stub: AudienceServiceStub, turn: int) -> None:
        request = EstimateAudienceRequest(name=NOT_ACTIVATED)
        request.as_of.FromMicroseconds(NOW + turn * MICROS_A_SECOND)
        stub.EstimateAudience(request)

    _loops(target, ended, ESTIMATES, ask)


def export(target: str, ended: Ended) -> None:
    """A loop of exports."""

    def ask(stub: AudienceServiceStub, turn: int) -> None:
        request = ExportMembersRequest(name=NOT_ACTIVATED)
        request.as_of.FromMicroseconds(NOW + turn * MICROS_A_SECOND)
        for _ in stub.ExportMembers(request):
            if ended.is_set():
                return

    _loops(target, ended, 1, ask)


def verify(target: str, ended: Ended) -> None:
    """A loop of verifications."""
    with grpc.insecure_channel(target) as channel:
        stub = AdminServiceStub(channel)
        while not ended.is_set():
            for _ in stub.VerifyStore(VerifyStoreRequest()):
                if ended.is_set():
                    return


def ingest(target: str, ended: Ended) -> None:
    """Batches of new events at a fixed rate."""
    with Client(target, account=ACCOUNT_ID) as client:
        began, sent = time.time(), 0
        now = datetime.now(UTC)
        while not ended.wait(max(0.0, began + sent / EVENTS_A_SECOND - time.time())):
            client.ingest_events(
                [
                    make_event(f"u{(sent + row) * 7_919 % 1_000_000}", "visit", now, {"amount": 1.5})
                    for row in range(BATCH_EVENTS)
                ],
                input=INPUT,
            )
            sent += BATCH_EVENTS


def _loops(target: str, ended: Ended, loops: int, ask: Callable[[AudienceServiceStub, int], None]) -> None:
    def loop(first: int) -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.insecure_channel(target, options=options) as channel:
            stub = AudienceServiceStub(channel)
            turn = first
            while not ended.is_set():
                ask(stub, turn)
                turn += loops

    threads = [threading.Thread(target=loop, args=(first,)) for first in range(1, loops + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


IDLE = "nothing"
LOADS: dict[str, Load | None] = {
    IDLE: None,
    "another program": compute,
    f"{COUNTS} loops of counts": count,
    f"{ESTIMATES} loops of estimates": estimate,
    f"ingest of {EVENTS_A_SECOND:,} events/s": ingest,
    "a loop of exports": export,
    "a loop of verifications": verify,
}
"""By what is beside the checks."""


# --- showing ------------------------------------------------------------------------------------------------


def _holds_table(scale: Scale, holds: list[Hold]) -> Table:
    return _of_figures(
        f"Longest hold of the state lock over {scale.users:,} users (ms of CPU)",
        ("by", "median", "at most", "holds"),
        [
            (hold.what, number(hold.median_ms), number(max(hold.longest_ms)), f"{hold.holds:,}")
            for hold in holds
        ],
    )


def _waits_table(scale: Scale, waits: list[Wait]) -> Table:
    return _of_figures(
        f"Waits of a thread for the interpreter over {scale.users:,} users (ms)",
        ("beside a loop of", "p50", "p90", "p99"),
        [(wait.what, *map(number, (wait.p50_ms, wait.p90_ms, wait.p99_ms))) for wait in waits],
    )


def _of_figures(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table whose first column says what the figures of a row are of."""
    table = Table(box=box.SIMPLE, title=title)
    first, *others = headings
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


def _table(options: Options, found: list[Line]) -> Table:
    scale = options.scale
    table = Table(
        box=box.SIMPLE,
        title=f"Checks of a bystander over {scale.users:,} users and {scale.events:,} events, "
        f"{options.readers} readers (ms)",
    )
    table.add_column("beside")
    for what in ("ten criteria", "activated"):
        for heading in (f"{what} p50", "p99", "× idle", "checks"):
            table.add_column(heading, justify="right")
    for line in found:
        cells = []
        for each in (line.not_activated, line.activated):
            cells += [number(each.p50 * 1_000), number(each.p99 * 1_000)]
            cells += [number(each.times_idle), f"{each.checks:,}"]
        table.add_row(line.beside, *cells)
    return table
