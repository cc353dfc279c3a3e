"""Import rate of a Parquet file of users: new users, and the same ones again, compared with UpsertUsers.

A user has five attributes: a plan of four, a country of fifty, a number, a bool and a time; with `--emails`
an e-mail address as well. `milepost import --users` runs in a separate process against a service in
another; what is acknowledged is on disk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.data import make_user_update
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from tests.bench.figures import number
from tests.bench.process import bytes_on_disk, children_cpu_seconds, cpu_seconds, status_bytes

SEED = 20_261_128
PLANS = ("free", "silver", "gold", "team")
COUNTRIES = tuple(f"country {each:02}" for each in range(50))
FIRST_MICROS = 1_600_000_000_000_000
SPAN_MICROS = 100_000_000_000_000
UPSERTED = 20_000
"""Users sent by UpsertUsers, which would take too long for all."""
BYTES_A_MB = 1_000_000
MICROS_A_SECOND = 1_000_000


@dataclass(frozen=True)
class Options:
    """Number of users, and whether each has a unique identity."""

    users: int
    emails: bool


@dataclass(frozen=True)
class Sent:
    """Users that were sent in one way, seconds, and CPU seconds of the service and of the sender."""

    how: str
    users: int
    seconds: float
    service_cpu: float
    sender_cpu: float


def run(options: Options, console: Console) -> list[Sent]:
    """Generates the file, sends it, and prints the table."""
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch:
        file = Path(scratch) / "users.parquet"
        pyarrow.parquet.write_table(_drawn(options), file)
        store = Path(scratch) / "store"
        service = ServiceProcess(store, flags=("--log-level", "warning"))
        with service, Client(service.target, account="bench") as client:
            client.ensure_account()
            client.ensure_input("w", "i")
            sent = [
                _imported("import, new users", options, file, service, "2026-01-01"),
                _imported("import, the same users again", options, file, service, "2026-01-02"),
                _upserted(options, client, service),
            ]
            users = client.admin.GetServerInfo(GetServerInfoRequest()).users
            assert users == options.users + min(UPSERTED, options.users), users
            peak = status_bytes(service.pid, "VmHWM") / BYTES_A_MB
            service.stop()
        disk = bytes_on_disk(store) / users
    console.print(_table(options, sent))
    console.print(
        f"{disk:.0f} bytes on disk a user once checkpointed; the service took {peak:,.0f} MB at most"
    )
    return sent


def _drawn(options: Options) -> Any:
    drawn = np.random.default_rng(SEED)
    count = options.users
    numbers = pa.array(np.arange(count)).cast(pa.string())
    columns = {
        "user_id": pa.compute.binary_join_element_wise("u", numbers, ""),
        "plan": pa.array(PLANS).take(pa.array(drawn.integers(0, len(PLANS), count))),
        "country": pa.array(COUNTRIES).take(pa.array(drawn.integers(0, len(COUNTRIES), count))),
        "value": pa.array(drawn.integers(0, 100_000, count) / 100),
        "subscribed": pa.array(drawn.integers(0, 2, count).astype(np.bool_)),
        "since": pa.array(FIRST_MICROS + drawn.integers(0, SPAN_MICROS, count), pa.timestamp("us", "UTC")),
    }
    if options.emails:
        columns["mail"] = pa.compute.binary_join_element_wise("u", numbers, "@example.com", "")
    return pa.table(columns)


def _imported(how: str, options: Options, file: Path, service: ServiceProcess, day: str) -> Sent:
    command = ["import", str(file), "--users", "--account", "bench", "--input", "w/i"]
    command += ["--target", service.target, "--default-time", f"{day}T00:00:00Z", "--from-start"]
    command += ["--identity", "mail:email"] if options.emails else []
    service_cpu, sender_cpu = cpu_seconds(service.pid), children_cpu_seconds()
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from milepost.cli import main; main()", *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return Sent(
        how,
        options.users,
        time.perf_counter() - started,
        cpu_seconds(service.pid) - service_cpu,
        children_cpu_seconds() - sender_cpu,
    )


def _upserted(options: Options, client: Client, service: ServiceProcess) -> Sent:
    rows = _drawn(options).slice(0, UPSERTED).to_pylist()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    updates = []
    for row in rows:
        identities = {"email": row.pop("mail")} if options.emails else {}
        updates.append(
            make_user_update(f"upserted {row.pop('user_id')}", row, time=at, identities=identities)
        )
    service_cpu, sender_cpu = cpu_seconds(service.pid), time.process_time()
    started = time.perf_counter()
    sent = client.upsert_users(updates, input=client.input_name("w/i"))
    assert sent.accepted == len(rows)
    return Sent(
        "UpsertUsers, new users",
        len(rows),
        time.perf_counter() - started,
        cpu_seconds(service.pid) - service_cpu,
        time.process_time() - sender_cpu,
    )


def _table(options: Options, sent: list[Sent]) -> Table:
    attributes = "five attributes" + (" and an e-mail address" if options.emails else "")
    shown = Table(title=f"{options.users:,} users of {attributes}", title_justify="left")
    shown.add_column("")
    for heading in ("users", "s", "users/s", "µs CPU a user, service", "sender"):
        shown.add_column(heading, justify="right")
    for each in sent:
        shown.add_row(
            each.how,
            number(each.users),
            f"{each.seconds:.1f}",
            number(each.users / each.seconds),
            f"{each.service_cpu / each.users * MICROS_A_SECOND:.1f}",
            f"{each.sender_cpu / each.users * MICROS_A_SECOND:.1f}",
        )
    return shown
