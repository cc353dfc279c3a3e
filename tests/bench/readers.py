"""Checks by a service with readers, compared with as many empty handlers on the service's own server stack.

Each figure is the median of several short rounds, in which the service and the empty handlers take turns. The
callers share the machine with the servers. Callers in Python need more of it than the servers, so that on two
cores their rates say little; with h2load the rates show what a second reader brings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Protocol

from rich.console import Console
from rich.table import Table

from clients.load.runners import OneCall, run_h2load
from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1 import audience_service_pb2
from milepost.v1.audience_service_pb2 import CheckMembershipRequest
from tests.bench import checks, checks_world, marketing_world
from tests.bench.callers import Callers, Checks
from tests.bench.check_rate import empty_handlers
from tests.bench.figures import number
from tests.bench.process import children_of, cpu_seconds

MICROS_A_SECOND = 1_000_000
CALLER_PROCESSES = 4
WARM_UP_CALLS = 50


@dataclass(frozen=True)
class Options:
    """Size of the world, numbers of readers, and how long is measured."""

    users: int
    readers: Sequence[int] = (0, 1, 2)
    callers: int = 16
    seconds: float = 1.0
    rounds: int = 5
    with_h2load: bool = False
    """Call from h2load instead of processes in Python, always for the same user."""


@dataclass(frozen=True)
class Answered:
    """What a round of calls measured: calls a second, latency in milliseconds, and all calls made."""

    per_second: float
    p99_ms: float
    calls: int


class Caller(Protocol):
    """Calls CheckMembership at an address for one round."""

    def __call__(self, target: str) -> Answered: ...


@dataclass(frozen=True)
class Line:
    """Medians over the rounds, of a service with `readers` readers and of empty handlers: calls a second,
    latency in milliseconds, microseconds of processor time a call. `writer_us` is that of the process with
    the store, which has no call to answer.
    """

    readers: int
    per_second: float
    p99_ms: float
    cpu_us: float
    writer_us: float
    empty_per_second: float
    empty_us: float


def run(options: Options, console: Console) -> Sequence[Line]:
    """Builds a world, measures, and prints the table."""
    with (
        tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory,
        Callers(CALLER_PROCESSES) as callers,
    ):
        console.print("building the world", style="dim")
        scale = marketing_world.Scale(users=options.users, events=3 * options.users)
        world = checks_world.build(Path(directory), scale)
        caller = _h2load(options, world) if options.with_h2load else _processes(options, callers, world)
        lines = []
        for readers in options.readers:
            console.print(f"{readers} readers", style="dim")
            lines.append(_measured(options, caller, world, readers))
    console.print(_table(lines, options))
    return lines


def _processes(options: Options, callers: Callers, world: checks_world.World) -> Caller:
    def call(target: str) -> Answered:
        asking = Checks(target, world.activated, world.users)
        calls = callers.call_for(options.seconds, asking, options.callers, WARM_UP_CALLS)
        made = len(calls.ordered_seconds) + WARM_UP_CALLS * options.callers
        return Answered(calls.per_second, calls.quantile_ms(0.99), made)

    return call


def _h2load(options: Options, world: checks_world.World) -> Caller:
    described = audience_service_pb2.DESCRIPTOR.services_by_name["AudienceService"]
    asked = OneCall(
        path=Path(__file__),
        method=described.methods_by_name["CheckMembership"],
        request=CheckMembershipRequest(audience=world.activated, user_id=world.users[0]),
        concurrency=options.callers,
        connections=options.callers,
        seconds=max(1, round(options.seconds)),
    )

    def call(target: str) -> Answered:
        [row] = run_h2load(asked, target, None)
        assert not row.errors
        return Answered(row.per_second, row.p99_ms, row.calls)

    return call


def _measured(options: Options, caller: Caller, world: checks_world.World, readers: int) -> Line:
    flags = ("--log-level", "warning", "--readers", str(readers))
    rounds: list[Line] = []
    with (
        ServiceProcess(world.store, flags=flags) as service,
        Client(service.target) as client,
        empty_handlers(max(1, readers)) as (empty_pids, empty),
    ):
        checks.wait_until_calculated(client, world.activated)
        # One more process waits in reserve, and takes no time.
        answering = children_of(service.pid) if readers else [service.pid]
        assert len(answering) == len(empty_pids) + bool(readers)

        def call(target: str, *processes: Sequence[int]) -> tuple[Answered, list[float]]:
            """The calls, and the processor time of each group of processes, in microseconds a call."""
            before = [sum(map(cpu_seconds, pids)) for pids in processes]
            answered = caller(target)
            after = [sum(map(cpu_seconds, pids)) for pids in processes]
            spent = [late - early for early, late in zip(before, after, strict=True)]
            return answered, [seconds * MICROS_A_SECOND / answered.calls for seconds in spent]

        for _ in range(options.rounds):
            ours, (cpu_us, writer_us) = call(service.target, answering, [service.pid])
            theirs, (empty_us,) = call(empty, empty_pids)
            rounds.append(
                Line(
                    readers=readers,
                    per_second=ours.per_second,
                    p99_ms=ours.p99_ms,
                    cpu_us=cpu_us,
                    writer_us=writer_us,
                    empty_per_second=theirs.per_second,
                    empty_us=empty_us,
                )
            )
    fields = ("per_second", "p99_ms", "cpu_us", "writer_us", "empty_per_second", "empty_us")
    return Line(readers, *(median(getattr(line, name) for line in rounds) for name in fields))


def _table(lines: Sequence[Line], options: Options) -> Table:
    title = f"Checks of an activated audience among {options.users:,} users, {options.callers} callers"
    shown = Table(title=title, title_justify="left")
    for heading in (
        "readers",
        "calls/s",
        "empty, calls/s",
        "p99 ms",
        "CPU µs a call",
        "empty, µs",
        "ratio",
        "writer, µs",
    ):
        shown.add_column(heading, justify="right")
    for line in lines:
        shown.add_row(
            str(line.readers),
            number(line.per_second),
            number(line.empty_per_second),
            f"{line.p99_ms:.2f}",
            number(line.cpu_us),
            number(line.empty_us),
            f"{line.cpu_us / line.empty_us:.2f}" if line.empty_us else "",
            number(line.writer_us) if line.readers else "",
        )
    return shown
