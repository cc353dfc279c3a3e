"""Growth of ingest, exact counts, restarts, disk and memory with the number of users, ten events each.

Each number of users has a new store and service process. Events arrive through `ImportEvents`. Right after
the last acknowledgement the service is killed and restarted on its log; it is queried, stopped (which
checkpoints everything) and restarted; then come the questions. A thread of this process generates batches
slightly ahead. When an import takes only a second or two, the median of several runs is kept.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path

from rich.console import Console

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1.admin_service_pb2 import GetServerInfoRequest, GetServerInfoResponse
from service.prefetch import Prefetch
from tests.bench import growth_world as world
from tests.bench.figures import quantile
from tests.bench.growth_figures import Growth, Memory, Restart
from tests.bench.growth_plot import draw
from tests.bench.growth_table import table
from tests.bench.process import bytes_on_disk, cpu_seconds, status_bytes

ACCOUNT, WORKSPACE, INPUT, JOURNEY = "bench", "shop", "web", "growth"
MILESTONE = f"{JOURNEY}/three-terms"
FLAGS = ("--log-level", "warning")
IMPORT_SECONDS_MAX = 6 * 3_600.0
BATCHES_AHEAD = 8
"""A million events: the order of the next round of users is drawn meanwhile."""
SHORT_USERS_MAX = 300_000
SHORT_RUNS = 5
COUNTS = 20
CHECKED_USERS = 200
LISTED_MEMBERS = 5_000


@dataclass(frozen=True)
class Options:
    """`users` of each scale, smallest first; `keep`: a directory to keep the stores in; `svg`: the file of
    the plot; `short_runs`: of a scale whose import takes only a second or two.
    """

    users: tuple[int, ...]
    keep: Path | None
    svg: Path
    short_runs: int = SHORT_RUNS


def run(options: Options, console: Console) -> list[Growth]:
    """Measures each scale, prints the table so far, and writes the plot at the end."""
    grown = []
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch:
        for users in options.users:
            runs = []
            for turn in range(options.short_runs if users <= SHORT_USERS_MAX else 1):
                store = (options.keep or Path(scratch)) / (f"growth-{users}" + f"-{turn + 1}" * bool(turn))
                if store.exists():
                    raise SystemExit(f"{store} exists already: each scale is measured on a new store")
                runs.append(measure(users, store, lambda text: console.print(text, style="dim")))
            runs.sort(key=lambda run: run.import_seconds + run.checkpoint_seconds)
            grown.append(runs[len(runs) // 2])
            # After each, because the next one may take an hour.
            console.print(table(grown))
    options.svg.write_text(draw(grown), encoding="utf-8")
    console.print(f"plot: {options.svg}", style="dim")
    return grown


def measure(users: int, store: Path, tell: Callable[[str], None]) -> Growth:
    """All figures of one scale, on a new store in that directory. Raises AssertionError when events are
    missing or a count differs after a restart.
    """
    service = ServiceProcess(store, flags=FLAGS)
    tell(f"{users:,} users: importing")
    with _stopped_at_the_end(service):
        service.start()
        imported = _import(service, users)
        tell("killed, and started on its log")
        service.kill()
        after_kill = _restart(service, users)
        tell("stopped, which checkpoints everything, and started")
        checkpoint_seconds = _stop(service)
        disk_bytes = bytes_on_disk(store)
        after_stop = _restart(service, users)
        assert after_stop.counted == after_kill.counted, "the count differs after a restart"
        tell("asking")
        with _client(service) as client:
            count_ms = _count_ms(client)
            _ask_everything(client)
        return Growth(
            users=users,
            events=users * world.ROUNDS,
            import_seconds=imported.seconds,
            import_cpu_seconds=imported.cpu_seconds,
            memory_after_import=imported.memory,
            log_bytes=imported.log_bytes,
            after_kill=after_kill,
            checkpoint_seconds=checkpoint_seconds,
            disk_bytes=disk_bytes,
            after_stop=after_stop,
            count_ms=count_ms,
            memory_after_questions=_memory(service),
        )


@contextmanager
def _stopped_at_the_end(service: ServiceProcess) -> Iterator[None]:
    try:
        yield
    finally:
        service.stop()


def _client(service: ServiceProcess) -> Client:
    return Client(service.target, account=ACCOUNT)


def _info(client: Client) -> GetServerInfoResponse:
    return client.admin.GetServerInfo(GetServerInfoRequest())


def _memory(service: ServiceProcess) -> Memory:
    return Memory(*(status_bytes(service.pid, field) for field in ("VmRSS", "RssAnon", "VmHWM")))


# --- steps ---


@dataclass(frozen=True)
class _Imported:
    seconds: float
    cpu_seconds: float
    log_bytes: int
    memory: Memory


def _import(service: ServiceProcess, users: int) -> _Imported:
    """Time from the first byte to the last acknowledgement."""
    with (
        _client(service) as client,
        Prefetch(world.batches(users), depth=BATCHES_AHEAD, name="draw") as drawn,
    ):
        client.ensure_account()
        input = client.ensure_input(WORKSPACE, INPUT).name
        client.ensure_journey(JOURNEY)
        client.ensure_milestone(JOURNEY, "three-terms", criteria=world.criteria())
        first = next(drawn)
        cpu, started = cpu_seconds(service.pid), time.perf_counter()
        answer = client.import_events(chain([first], drawn), input=input, timeout=IMPORT_SECONDS_MAX)
        seconds = time.perf_counter() - started
        assert (answer.accepted, answer.rejected) == (users * world.ROUNDS, 0), answer
        return _Imported(seconds, cpu_seconds(service.pid) - cpu, _info(client).log_bytes, _memory(service))


def _restart(service: ServiceProcess, users: int) -> Restart:
    """Starts the service, waits until it is SERVING, and asks for the first exact count."""
    started = time.perf_counter()
    service.start()
    serving_seconds = time.perf_counter() - started
    with _client(service) as client:
        counted = client.count(MILESTONE, as_of=world.END).users
        answered_seconds = time.perf_counter() - started
        info = _info(client)
    assert (info.users, info.events) == (users, users * world.ROUNDS), (
        f"{info.users} users, {info.events} events"
    )
    return Restart(serving_seconds, answered_seconds, counted)


def _stop(service: ServiceProcess) -> float:
    """Stops the service with SIGTERM, waits for the checkpoint, and returns the seconds."""
    started = time.perf_counter()
    os.kill(service.pid, signal.SIGTERM)
    status = service.wait()
    assert status == 0, f"the service ended with status {status}"
    return time.perf_counter() - started


def _count_ms(client: Client) -> float:
    """The median of exact counts, each a second later than the one before, so that every window moves."""
    taken = []
    for call in range(COUNTS):
        started = time.perf_counter()
        client.count(MILESTONE, as_of=world.END + timedelta(seconds=1 + call))
        taken.append((time.perf_counter() - started) * 1_000)
    return quantile(sorted(taken), 0.5)


def _ask_everything(client: Client) -> None:
    """One of each kind of question, to fill the caches."""
    client.estimate(MILESTONE)
    audience = client.audience_name(MILESTONE)
    client.check_many([f"u{number}" for number in range(CHECKED_USERS)], [audience])
    assert sum(1 for _ in islice(client.list_members(MILESTONE, as_of=world.END), LISTED_MEMBERS)) > 0
    assert [each.name for each in client.list_event_names()] == sorted(world.NAMES)
    for name in world.NAMES:
        assert {each.key for each in client.list_attributes(event_name=name)} == {"amount", "category"}
