"""Live audiences: from an acknowledgement to the watcher, and what they cost that have nothing to do.

| part | what is measured |
|---|---|
| latency | from the acknowledgement of an event to its change at a watcher, with journeys that read it |
| event | processor time of the service for an event, with audiences that do not read it and without |
| rounds | processor time of rounds of many journeys, in which users enter, and in which time moves users |
| erased | processor time of a round that moves one user, with erased users and without |
| tick | a round in which time moves many users, and checks meanwhile |
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from milepost import Client, make_event
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import event
from milepost.outputs import WatchOutput
from milepost.v1.audience_pb2 import MembershipChange
from tests.bench import live_engine
from tests.bench.figures import Figure, quantile, table
from tests.bench.process import cpu_seconds

ACCOUNT = "live"
SENDER_EVENTS_A_SECOND = 1_000
"""One sender sends as many: higher rates come from several, each with a connection of its own."""
BATCH_EVENTS = 20
COST_BATCH_EVENTS = 500
AUDIENCES_MAX = 1_000
READY_SECONDS_MAX = 120.0
SETTLE_SECONDS = 3.0
MILLIS_A_SECOND = 1_000
MICROS_A_SECOND = 1_000_000
PERCENT = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """`seconds` of events for each number of journeys at each of the `rates`, in events a second; `events` to
    take the mean cost of.
    """

    journeys: tuple[int, ...] = (1, 20, 100, 300)
    rates: tuple[int, ...] = (1_000, 5_000)
    seconds: float = 10.0
    events: int = 100_000
    idle_audiences: int = 100
    round_journeys: int = 100
    round_users: int = 400
    erased: int = 100_000
    tick_users: int = 500_000


def run(options: Options, console: Console) -> list[Figure]:
    """Measures all parts and prints the table."""
    figures: list[Figure] = []
    for rate in options.rates:
        for journeys in options.journeys:
            console.print(f"latency with {journeys} journeys, {rate:,} events a second", style="dim")
            figures += latency(journeys, rate, options.seconds)
    if options.events:
        console.print("cost of an event", style="dim")
        figures += cost_of_an_event(options.events, options.idle_audiences)
    if options.round_journeys:
        console.print("rounds of many journeys", style="dim")
        figures += live_engine.many_journeys(options.round_journeys, options.round_users)
        figures += live_engine.leaving(options.round_journeys, options.round_users)
    if options.erased:
        console.print("erased users", style="dim")
        figures += live_engine.erased_users(options.erased)
    if options.tick_users:
        console.print("a tick", style="dim")
        figures += live_engine.tick(options.tick_users)
    console.print(table("Live audiences", figures))
    return figures


@contextmanager
def _service() -> Iterator[tuple[ServiceProcess, Client]]:
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory:
        flags = ("--log-level", "warning")
        with (
            ServiceProcess(Path(directory) / "store", flags=flags) as service,
            Client(service.target, account=ACCOUNT) as client,
        ):
            client.ensure_account(active_audience_limit=AUDIENCES_MAX)
            client.ensure_input("shop", "web")
            client.ensure_output("watch", WatchOutput())
            yield service, client


def _activate(client: Client, journeys: int, name: str) -> None:
    """Journeys of one audience each, who did that in 30 days, all calculated."""
    for number in range(journeys):
        client.ensure_journey(f"j{number}")
        criteria = event(name, last=timedelta(days=30, seconds=number)).happened()
        client.ensure_milestone(f"j{number}", "m", criteria=criteria)
        connection = client.ensure_connection(f"c{number}", target=f"j{number}/m", output="watch")
        client.activate_connection(connection.name)
    deadline = time.monotonic() + READY_SECONDS_MAX
    for number in range(journeys):
        while client.get_audience(f"j{number}/m").size.kind != live_engine.REAL:
            assert time.monotonic() < deadline, "the audiences are not calculated"
            time.sleep(0.05)


# --- latency ------------------------------------------------------------------------------------------------


class _Watching:
    """When a watcher of the first journey has had each user."""

    def __init__(self, client: Client) -> None:
        self.seen: dict[str, float] = {}
        self._watch = client.watch("j0/m")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self._watch:
            if isinstance(item, MembershipChange):
                self.seen.setdefault(item.user_id, time.monotonic())

    def wait_for(self, users: int) -> None:
        """Waits until that many users have come."""
        deadline = time.monotonic() + READY_SECONDS_MAX
        while len(self.seen) < users:
            assert time.monotonic() < deadline, f"{len(self.seen)} of {users} changes have come"
            time.sleep(0.05)

    def close(self) -> None:
        """Ends the watch."""
        self._watch.close()
        self._thread.join(READY_SECONDS_MAX)


def latency(journeys: int, rate: int, seconds: float) -> list[Figure]:
    """Sends new users at a fixed rate and takes the time until a watcher has each."""
    with _service() as (service, client):
        _activate(client, journeys, "buy")
        with Client(service.target, account=ACCOUNT) as other:
            watching = _Watching(other)
            time.sleep(SETTLE_SECONDS)
            before, began = cpu_seconds(service.pid), time.monotonic()
            acknowledged = _send_steadily(service.target, rate, seconds)
            took = time.monotonic() - began
            cpu_share = (cpu_seconds(service.pid) - before) / took
            watching.wait_for(len(acknowledged))
            waits = sorted(max(0.0, watching.seen[user] - then) for user, then in acknowledged.items())
            watching.close()
    what = f"acknowledgement → watch, {journeys} journeys, {rate:,} events/s"
    return [
        *(
            Figure(f"{what}, p{share * 100:.0f}", quantile(waits, share) * MILLIS_A_SECOND, "ms")
            for share in (0.5, 0.99)
        ),
        Figure(f"{what}, acknowledged", len(acknowledged) / took, "events/s"),
        Figure(f"{what}, CPU of the service", cpu_share * PERCENT, "% of a core"),
    ]


def _send_steadily(target: str, rate: int, seconds: float) -> dict[str, float]:
    """Sends an event of a new user at a time, in small batches; when each was acknowledged."""
    count = max(1, rate // SENDER_EVENTS_A_SECOND)
    acknowledged: dict[str, float] = {}
    with ThreadPoolExecutor(count) as senders:
        share, began = rate / count, time.monotonic()
        # Not all at one moment.
        starts = [began + number / count * BATCH_EVENTS / share for number in range(count)]
        running = [
            senders.submit(_send_from, target, f"u{number}", start, share, seconds)
            for number, start in enumerate(starts)
        ]
        for sent in running:
            acknowledged |= sent.result()
    return acknowledged


def _send_from(target: str, prefix: str, start: float, rate: float, seconds: float) -> dict[str, float]:
    """One sender's events: see `_send_steadily`."""
    acknowledged: dict[str, float] = {}
    with Client(target, account=ACCOUNT) as client:
        for batch in range(int(seconds * rate / BATCH_EVENTS)):
            time.sleep(max(0.0, start + batch * BATCH_EVENTS / rate - time.monotonic()))
            users = [f"{prefix}-{batch}-{number}" for number in range(BATCH_EVENTS)]
            now = datetime.now(UTC)
            client.ingest_events([make_event(user, "buy", now) for user in users], input="shop/web")
            acknowledged.update(dict.fromkeys(users, time.monotonic()))
    return acknowledged


# --- an event that no audience reads ------------------------------------------------------------------------


def cost_of_an_event(events: int, audiences: int) -> list[Figure]:
    """Processor time of the service for an event, with audiences that do not read it and without."""
    without, beside = (_cpu_micros(count, events) for count in (0, audiences))
    what = f"CPU an event, {audiences} audiences that do not read it"
    return [Figure(what, beside, "µs", without, "none")]


def _cpu_micros(audiences: int, events: int) -> float:
    with _service() as (service, client):
        users = [f"u{number}" for number in range(COST_BATCH_EVENTS)]
        _send(client, users, "visit", COST_BATCH_EVENTS)
        _activate(client, audiences, "buy")
        time.sleep(SETTLE_SECONDS)
        before = cpu_seconds(service.pid)
        _send(client, users, "visit", events)
        return (cpu_seconds(service.pid) - before) / events * MICROS_A_SECOND


def _send(client: Client, users: Sequence[str], name: str, events: int) -> None:
    for _ in range(events // len(users)):
        now = datetime.now(UTC)
        client.ingest_events([make_event(user, name, now) for user in users], input="shop/web")
