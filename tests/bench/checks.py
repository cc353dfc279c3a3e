"""Checks compared with an empty handler on the same server stack, and with Redis over the same members.

Each figure is the median of several short rounds, in which the subjects take turns: what else runs on the
machine then touches all of them alike. The callers share the machine with the servers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1.audience_pb2 import SIZE_KIND_REAL
from tests.bench import checks_world, marketing_world
from tests.bench.callers import Asking, BatchChecks, Callers, Checks
from tests.bench.check_rate import empty_handler
from tests.bench.checks_world import BATCH_USERS, EngineMicros, World
from tests.bench.figures import number
from tests.bench.peers.redis_peer import AreMembers, IsMember, redis_server
from tests.bench.process import cpu_seconds

EMPTY, ACTIVATED, NOT_ACTIVATED = "empty handler", "activated", "not activated"
REDIS = "Redis"
MICROS_A_SECOND = 1_000_000
CALCULATED_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Options:
    """Size of the world, numbers of callers, and how long is measured."""

    users: int
    callers: Sequence[int] = (1, 8, 32)
    seconds: float = 1.0
    rounds: int = 5


@dataclass(frozen=True)
class Subject:
    """What is called: the process that answers, and the calls."""

    pid: int
    asking: Asking


@dataclass(frozen=True)
class Line:
    """Medians over the rounds: calls a second, latencies in milliseconds, microseconds of the server's
    processor time a call.
    """

    what: str
    callers: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


@dataclass(frozen=True)
class Outcome:
    """Everything measured. `batches` are of `BATCH_USERS` users and one audience."""

    engine: EngineMicros
    singles: Sequence[Line]
    batches: Sequence[Line]


def run(options: Options, console: Console) -> Outcome:
    """Builds a world, measures, and prints the tables."""
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory:
        console.print("building the world", style="dim")
        scale = marketing_world.Scale(users=options.users, events=3 * options.users)
        world = checks_world.build(Path(directory), scale)
        engine = checks_world.engine_micros(world)
        flags = ("--log-level", "warning")
        with ServiceProcess(world.store, flags=flags) as service, Client(service.target) as client:
            members = _members(client, world.activated)
            outcome = _measured(options, console, world, service, engine, members)
    console.print(_table(outcome, len(members), options.users))
    return outcome


def _members(client: Client, audience: str) -> list[str]:
    """The members of an audience, once it is calculated in this process."""
    wait_until_calculated(client, audience)
    return list(client.list_members(audience, page_size=1_000))


def wait_until_calculated(client: Client, audience: str) -> None:
    """Waits until the service has calculated the audience."""
    deadline = time.monotonic() + CALCULATED_SECONDS_MAX
    while client.get_audience(audience).size.kind != SIZE_KIND_REAL:
        if time.monotonic() > deadline:
            raise TimeoutError("the audience is not calculated")
        time.sleep(0.2)


def _measured(
    options: Options,
    console: Console,
    world: World,
    service: ServiceProcess,
    engine: EngineMicros,
    members: Sequence[str],
) -> Outcome:
    with ExitStack() as stack:
        callers = stack.enter_context(Callers())
        empty_pid, empty = stack.enter_context(empty_handler())
        users, batch = world.users, world.users[:BATCH_USERS]
        singles = {
            EMPTY: Subject(empty_pid, Checks(empty, world.activated, users)),
            ACTIVATED: Subject(service.pid, Checks(service.target, world.activated, users)),
            NOT_ACTIVATED: Subject(service.pid, Checks(service.target, world.not_activated, users)),
        }
        parent, audiences = marketing_world.ACCOUNT, (world.activated,)
        batches = {
            EMPTY: Subject(empty_pid, BatchChecks(empty, parent, audiences, batch)),
            ACTIVATED: Subject(service.pid, BatchChecks(service.target, parent, audiences, batch)),
        }
        try:
            redis_pid, redis_port = stack.enter_context(redis_server(members))
        except ImportError:
            console.print("without Redis: EXTRAS=dev,sample,bench brings it", style="dim")
        else:
            singles[REDIS] = Subject(redis_pid, IsMember(redis_port, users))
            batches[REDIS] = Subject(redis_pid, AreMembers(redis_port, batch))
        _check_answers(service, world, members)
        # First, as the service then has all users in memory.
        console.print("batches", style="dim")
        of_batches = _in_turns(callers, batches, 1, options, warm_up_calls=1)
        lines = []
        for count in options.callers:
            console.print(f"single checks, {count} callers", style="dim")
            lines += _in_turns(callers, singles, count, options, warm_up_calls=20)
        return Outcome(engine, lines, of_batches)


def _check_answers(service: ServiceProcess, world: World, members: Sequence[str]) -> None:
    """The same users are members by both audiences and in the list, of which the peer's set is made."""
    asked, expected = world.users[:BATCH_USERS], frozenset(members)
    with Client(service.target, account=marketing_world.ACCOUNT_ID) as client:
        for audience in (world.activated, world.not_activated):
            found = client.check_many(asked, [audience])
            assert {user for user, audiences in found.items() if audiences} == expected.intersection(asked)


def _in_turns(
    callers: Callers, subjects: Mapping[str, Subject], count: int, options: Options, *, warm_up_calls: int
) -> list[Line]:
    rounds: dict[str, list[Line]] = {what: [] for what in subjects}
    for _ in range(options.rounds):
        for what, subject in subjects.items():
            before = cpu_seconds(subject.pid)
            calls = callers.call_for(options.seconds, subject.asking, count, warm_up_calls)
            answered = len(calls.ordered_seconds) + warm_up_calls * count
            cpu_us = (cpu_seconds(subject.pid) - before) / answered * MICROS_A_SECOND
            rounds[what].append(
                Line(what, count, calls.per_second, calls.quantile_ms(0.5), calls.quantile_ms(0.99), cpu_us)
            )
    return [_median_of(lines) for lines in rounds.values()]


def _median_of(lines: Sequence[Line]) -> Line:
    fields = ("per_second", "p50_ms", "p99_ms", "cpu_us")
    medians = {name: median(getattr(line, name) for line in lines) for name in fields}
    return Line(lines[0].what, lines[0].callers, **medians)


# --- the table ----------------------------------------------------------------------------------------------


def _table(outcome: Outcome, members: int, users: int) -> Table:
    shown = Table(title=f"Checks of an audience of {members:,} among {users:,} users", title_justify="left")
    shown.add_column("what", no_wrap=True)
    for heading in ("callers", "calls/s", "ratio", "p50 ms", "p99 ms", "CPU µs a call", "ratio"):
        shown.add_column(heading, justify="right")
    for lines in (outcome.singles, outcome.batches):
        kind = "one user" if lines is outcome.singles else f"{BATCH_USERS:,} users"
        for line in lines:
            empty = next(e for e in lines if e.what == EMPTY and e.callers == line.callers)
            shown.add_row(
                f"{kind}, {line.what}",
                str(line.callers),
                number(line.per_second),
                _ratio(line.per_second, empty.per_second),
                f"{line.p50_ms:.2f}",
                f"{line.p99_ms:.2f}",
                number(line.cpu_us),
                _ratio(line.cpu_us, empty.cpu_us),
            )
    for what, micros in (
        ("engine alone, activated", outcome.engine.activated),
        ("engine alone, not activated", outcome.engine.not_activated),
        ("engine alone, a decision of a batch", outcome.engine.batch_decision),
    ):
        shown.add_row(what, "", "", "", "", "", number(micros), "")
    batch_us = next(line.cpu_us for line in outcome.batches if line.what == ACTIVATED)
    decisions = number(BATCH_USERS * MICROS_A_SECOND / batch_us) if batch_us else ""
    shown.add_row("decisions of batches per second of CPU", "", decisions, "", "", "", "", "")
    return shown


def _ratio(ours: float, empty: float) -> str:
    """Empty where the kernel counted no time at all: its clock ticks every ten milliseconds."""
    return f"{ours / empty:.2f}" if empty else ""
