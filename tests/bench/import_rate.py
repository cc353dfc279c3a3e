"""Import rate of a Parquet file of events, compared with two databases that load the same file.

The file is generated from a seed: users `u0` …, five event names, unordered times over 90 days, an amount,
and one of fifty categories. `milepost import` and the service run in separate processes; each database loads
the file in this process, with its default number of threads. Milepost acknowledges only what is on disk; the
databases do not wait for the disk.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console
from rich.table import Table

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from tests.bench.figures import number
from tests.bench.process import bytes_on_disk, children_cpu_seconds, cpu_seconds, status_bytes

SEED = 20_251_123
FIRST_MICROS = 1_750_000_000_000_000
DAYS = 90
MICROS_A_DAY = 86_400_000_000
NAMES = ("view", "cart", "buy", "search", "open")
NAME_SHARES = (0.4, 0.1, 0.05, 0.25, 0.2)
CATEGORIES = tuple(f"category {each:02}" for each in range(50))
ROW_GROUP_ROWS = 1 << 20
BYTES_A_MB = 1_000_000
MICROS_A_SECOND = 1_000_000
COLUMNS = "user_id, name, time, amount, category"


@dataclass(frozen=True)
class Options:
    """`keep`: a directory to keep the generated file in."""

    events: int
    users: int
    keep: Path | None


@dataclass(frozen=True)
class Loaded:
    """One load: events found afterwards, seconds, bytes on disk, and remarks."""

    who: str
    events: int
    seconds: float
    disk_bytes: int
    cpu_seconds: float | None = None
    remarks: str = ""


def run(options: Options, console: Console) -> list[Loaded]:
    """Generates the file, loads it three times, and prints the table."""
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as scratch:
        file = (options.keep or Path(scratch)) / f"events-{options.events}-{options.users}.parquet"
        if not file.exists():
            console.print("drawing the file", style="dim")
            file.parent.mkdir(parents=True, exist_ok=True)
            write_parquet(file, options.events, options.users)
        loads = []
        for load in (_milepost, _chdb, _duckdb):
            console.print(load.__name__.removeprefix("_"), style="dim")
            loads += load(file, Path(scratch))
        for loaded in loads:
            assert loaded.events == options.events, f"{loaded.who} has {loaded.events} events"
        file_bytes = file.stat().st_size
    console.print(_table(options, loads, file_bytes))
    return loads


def write_parquet(path: Path, events: int, users: int) -> None:
    """Writes the file, a row group at a time."""
    drawn = np.random.default_rng(SEED)
    unfinished = path.with_suffix(".unfinished")
    writer: Any = None
    for start in range(0, events, ROW_GROUP_ROWS):
        table = _rows(drawn, min(ROW_GROUP_ROWS, events - start), users)
        writer = writer or pyarrow.parquet.ParquetWriter(unfinished, table.schema)
        writer.write_table(table)
    writer.close()
    unfinished.rename(path)


def _rows(drawn: np.random.Generator, count: int, users: int) -> Any:
    numbers = pa.array(drawn.integers(0, users, count)).cast(pa.string())
    joined = pa.compute.binary_join_element_wise("u", numbers, "")
    times = FIRST_MICROS + drawn.integers(0, DAYS * MICROS_A_DAY, count)
    columns = {
        "user_id": joined,
        "name": _chosen(NAMES, drawn.choice(len(NAMES), count, p=NAME_SHARES)),
        "time": pa.array(times, pa.timestamp("us", "UTC")),
        "amount": pa.array(drawn.integers(100, 100_000, count) / 100),
        "category": _chosen(CATEGORIES, drawn.integers(0, len(CATEGORIES), count)),
    }
    return pa.table(columns)


def _chosen(texts: tuple[str, ...], codes: npt.NDArray[np.int64]) -> Any:
    return pa.array(texts).take(pa.array(codes))


# --- Milepost ---


def _milepost(file: Path, scratch: Path) -> list[Loaded]:
    store = scratch / "milepost"
    service = ServiceProcess(store, flags=("--log-level", "warning"))
    with service, Client(service.target, account="bench") as client:
        client.ensure_account()
        client.ensure_input("w", "i")
        idle_cpu = cpu_seconds(service.pid)
        started, before = time.perf_counter(), children_cpu_seconds()
        _run_command(file, service.target, scratch)
        seconds = time.perf_counter() - started
        client_cpu = children_cpu_seconds() - before
        events = client.admin.GetServerInfo(GetServerInfoRequest()).events
        service_cpu = cpu_seconds(service.pid) - idle_cpu
        acknowledged = Loaded(
            "Milepost, acknowledged",
            events,
            seconds,
            bytes_on_disk(store),
            service_cpu + client_cpu,
            f"CPU {service_cpu:.1f} s service, {client_cpu:.1f} s command;"
            f" RSS {status_bytes(service.pid, 'VmRSS') / BYTES_A_MB:,.0f} MB,"
            f" at most {status_bytes(service.pid, 'VmHWM') / BYTES_A_MB:,.0f} MB",
        )
        # The stop checkpoints what is left, and closes the store.
        service.stop()
    checkpointed = replace(
        acknowledged,
        who="Milepost, checkpointed",
        seconds=time.perf_counter() - started,
        disk_bytes=bytes_on_disk(store),
        cpu_seconds=None,
        remarks="everything in the index, the log empty, the service stopped",
    )
    return [acknowledged, checkpointed]


def _run_command(file: Path, target: str, scratch: Path) -> None:
    command = ["import", str(file), "--account", "bench", "--input", "w/i", "--target", target]
    command += ["--progress-file", str(scratch / "progress.json"), "--rejected", str(scratch / "rejected")]
    subprocess.run(
        [sys.executable, "-c", "from milepost.cli import main; main()", *command],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    progress = json.loads((scratch / "progress.json").read_text(encoding="utf-8"))
    assert [each["rejected"] for each in progress["imports"]] == [0]


# --- peers ---


@contextmanager
def _measured() -> Iterator[Callable[[], tuple[float, float]]]:
    """Returns a function that returns the elapsed seconds and processor seconds of this process."""
    started, cpu = time.perf_counter(), time.process_time()
    yield lambda: (time.perf_counter() - started, time.process_time() - cpu)


def _chdb(file: Path, scratch: Path) -> list[Loaded]:
    from chdb import session

    directory = scratch / "chdb"
    directory.mkdir()
    open_session: Any = session.Session  # untyped
    opened = open_session(str(directory))
    opened.query("CREATE DATABASE world ENGINE = Atomic")
    opened.query(
        "CREATE TABLE world.events (user_id String, name LowCardinality(String), time DateTime64(6, 'UTC'),"
        " amount Float64, category LowCardinality(String)) ENGINE = MergeTree ORDER BY (name, user_id, time)"
    )
    with _measured() as so_far:
        opened.query(f"INSERT INTO world.events SELECT {COLUMNS} FROM file('{file}', Parquet)")
        seconds, cpu = so_far()
    events = int(str(opened.query("SELECT count() FROM world.events", "TSV")))
    opened.close()
    return [
        Loaded(
            "chdb (MergeTree)", events, seconds, bytes_on_disk(directory), cpu, "sorted by name, user, time"
        )
    ]


def _duckdb(file: Path, scratch: Path) -> list[Loaded]:
    import duckdb

    directory = scratch / "duckdb"
    directory.mkdir()
    connection = duckdb.connect(directory / "events.duckdb")
    with _measured() as so_far:
        connection.execute(f"CREATE TABLE events AS SELECT {COLUMNS} FROM '{file}'")
        connection.execute("CHECKPOINT")
        seconds, cpu = so_far()
    row = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    connection.close()
    return [Loaded("DuckDB", int(row[0]), seconds, bytes_on_disk(directory), cpu, "in the order of the file")]


# --- the table ---


def _table(options: Options, loads: list[Loaded], file_bytes: int) -> Table:
    title = (
        f"Importing {options.events:,} events of {options.users:,} users"
        f" from a Parquet file of {file_bytes / BYTES_A_MB:,.0f} MB"
    )
    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for heading in ("s", "events/s", "ratio", "µs CPU an event", "bytes on disk an event"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    own = loads[0].seconds
    for loaded in loads:
        cpu = loaded.cpu_seconds
        shown.add_row(
            loaded.who,
            f"{loaded.seconds:.1f}",
            number(loaded.events / loaded.seconds),
            f"{loaded.seconds / own:.2f}",
            "" if cpu is None else f"{cpu / loaded.events * MICROS_A_SECOND:.2f}",
            f"{loaded.disk_bytes / loaded.events:.1f}",
            loaded.remarks,
        )
    return shown
