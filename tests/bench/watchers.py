"""What thousands of watchers cost a service: memory, processor time, and the checks beside them.

Watchers are streams of one asyncio process over the connections that they need. Each follows one of
`audiences` audiences, in turn, with a progress mark every five seconds. The service is a process of its own;
the client's processor time is not counted.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console
from rich.table import Table

from milepost import Client, make_user_update
from milepost._connections import CALLS_MAX
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import attribute
from milepost.outputs import WatchOutput
from milepost.v1.audience_service_pb2 import CheckMembershipRequest, WatchMembershipRequest
from milepost.v1.audience_service_pb2_grpc import AudienceServiceStub
from tests.bench.figures import quantile
from tests.bench.process import cpu_seconds, status_bytes

ACCOUNT_ID = "watchers"
MEMBERS = 100
CHECKS = 1_000
BYTES_A_MEGABYTE = 1 << 20
MILLIS_A_SECOND = 1_000
OPENED_AT_ONCE = 250
HEARD_S_MAX = 120.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How many watchers, of how many audiences, and how long the quiet ones are measured, in seconds."""

    watchers: Sequence[int] = (0, 100, 1_000, 5_000)
    audiences: int = 50
    seconds: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of watchers: memory of the service in bytes, shares of a core, and latencies in seconds."""

    watchers: int
    memory: int
    quiet_share: float
    check_p50: float
    check_p99: float
    heard_s: float
    change_cpu_s: float


def run(options: Options, console: Console) -> list[Row]:
    """Measures and prints the table."""
    flags = ("--watchers-max", str(max(*options.watchers, 1)), "--log-level", "error")
    with (
        tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory,
        ServiceProcess(Path(directory) / "store", flags=flags) as service,
    ):
        _prepare(service.target, options.audiences)
        rows = [asyncio.run(_measure(service, watchers, options)) for watchers in options.watchers]
    table = Table("watchers", "memory", "quiet, of a core", "check p50", "check p99", "a change", "its CPU")
    for row in rows:
        table.add_row(
            f"{row.watchers:,}",
            f"{row.memory / BYTES_A_MEGABYTE:,.0f} MB",
            f"{row.quiet_share:.1%}",
            f"{row.check_p50 * MILLIS_A_SECOND:.2f} ms",
            f"{row.check_p99 * MILLIS_A_SECOND:.2f} ms",
            f"{row.heard_s * MILLIS_A_SECOND:,.0f} ms",
            f"{row.change_cpu_s * MILLIS_A_SECOND:,.0f} ms",
        )
    console.print(table)
    console.print("A change: one user enters all audiences, until every watcher has heard of it.")
    return rows


def _target(audience: int) -> str:
    return f"accounts/{ACCOUNT_ID}/journeys/j{audience}/milestones/m"


def _prepare(target: str, audiences: int) -> None:
    with Client(target, account=ACCOUNT_ID) as client:
        client.ensure_account()
        client.ensure_input("shop", "web")
        client.upsert_users(
            [make_user_update(f"u{n}", {"in": True}) for n in range(MEMBERS)], input="shop/web"
        )
        output = client.ensure_output("consumers", WatchOutput()).name
        for number in range(audiences):
            client.ensure_journey(f"j{number}")
            client.ensure_milestone(f"j{number}", "m", criteria=attribute("in").equals(True))
            client.ensure_connection(f"c{number}", target=f"j{number}/m", output=output)
            client.activate_connection(f"c{number}")


class _Watcher:
    """A stream, and how many changes it has had."""

    def __init__(self, stub: Any, audience: int) -> None:
        self.is_ready = asyncio.Event()
        self.changes = 0
        self.heard = asyncio.Event()
        request = WatchMembershipRequest(audience=_target(audience), snapshot=True)
        self._call = stub.WatchMembership(request)
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            async for update in self._call:
                kind = update.WhichOneof("update")
                if kind == "snapshot_end":
                    self.is_ready.set()
                elif kind == "changes":
                    self.changes += len(update.changes.changes)
                    self.heard.set()
        except asyncio.CancelledError:
            return

    async def close(self) -> None:
        """Ends the stream."""
        self._call.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def _measure(service: ServiceProcess, count: int, options: Options) -> Row:
    channels = [
        grpc.aio.insecure_channel(service.target, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(0, max(count, 1), CALLS_MAX)
    ]
    stubs: list[Any] = [AudienceServiceStub(channel) for channel in channels]
    watchers: list[_Watcher] = []
    for first in range(0, count, OPENED_AT_ONCE):
        opened = [
            _Watcher(stubs[number % len(stubs)], number % options.audiences)
            for number in range(first, min(first + OPENED_AT_ONCE, count))
        ]
        await asyncio.gather(*(each.is_ready.wait() for each in opened))
        watchers += opened
    began, cpu = time.monotonic(), cpu_seconds(service.pid)
    await asyncio.sleep(options.seconds)
    quiet = (cpu_seconds(service.pid) - cpu) / (time.monotonic() - began)
    memory = status_bytes(service.pid, "RssAnon")
    latencies = await asyncio.to_thread(_check, service.target)
    heard_s, change_cpu_s = await _change(service, watchers, count)
    for each in watchers:
        await each.close()
    for channel in channels:
        await channel.close()
    return Row(
        watchers=count,
        memory=memory,
        quiet_share=quiet,
        check_p50=quantile(latencies, 0.5),
        check_p99=quantile(latencies, 0.99),
        heard_s=heard_s,
        change_cpu_s=change_cpu_s,
    )


def _check(target: str) -> list[float]:
    """Seconds that checks take, one after another."""
    latencies = []
    with grpc.insecure_channel(target) as channel:
        stub = AudienceServiceStub(channel)
        for number in range(CHECKS):
            began = time.perf_counter()
            stub.CheckMembership(CheckMembershipRequest(audience=_target(0), user_id=f"u{number % MEMBERS}"))
            latencies.append(time.perf_counter() - began)
    return sorted(latencies)


async def _change(service: ServiceProcess, watchers: list[_Watcher], number: int) -> tuple[float, float]:
    """Seconds until all have heard of a user who enters, and the processor time meanwhile."""
    for each in watchers:
        each.heard.clear()
    began, cpu = time.monotonic(), cpu_seconds(service.pid)

    def enter() -> None:
        with Client(service.target, account=ACCOUNT_ID) as client:
            client.upsert_users([make_user_update(f"new-{number}", {"in": True})], input="shop/web")

    await asyncio.to_thread(enter)
    hearing = asyncio.gather(*(each.heard.wait() for each in watchers))
    await asyncio.wait_for(hearing, HEARD_S_MAX)
    return time.monotonic() - began, cpu_seconds(service.pid) - cpu
