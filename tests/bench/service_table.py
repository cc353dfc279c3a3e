"""The service's table: load rate, estimates, membership checks, footprint, over the sample."""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from milepost import Client
from milepost.cli.service_process import ServiceProcess
from milepost.sample import dataset, journey
from milepost.sample.load import load
from tests.bench import check_rate, estimate_time, footprint, load_rate, memory_asked
from tests.bench.figures import Figure, Subject, table
from tests.bench.process import cpu_seconds

# The footprint comes first, because resending the sample adds to memory and disk. Memory comes last again,
# after all questions.
BENCHMARKS = (footprint, load_rate, estimate_time, check_rate, memory_asked)


def run(console: Console) -> list[Figure]:
    """Loads the sample into a new store through gRPC, measures, and prints the table."""
    with tempfile.TemporaryDirectory(prefix="milepost-bench-") as directory:
        flags = ("--log-level", "warning")
        with (
            ServiceProcess(Path(directory) / "store", flags=flags) as service,
            Client(service.target, account=dataset.ACCOUNT_ID) as client,
        ):
            console.print("loading the sample", style="dim")
            before = cpu_seconds(service.pid)
            loaded = load(client)
            subject = Subject(service, client, loaded, cpu_seconds(service.pid) - before)
            journey.build(client)
            figures = []
            for benchmark in BENCHMARKS:
                console.print(benchmark.__name__.rpartition(".")[2].replace("_", " "), style="dim")
                figures += benchmark.measure(subject)
    console.print(table(f"The service, on the sample of {dataset.EVENTS:,} events", figures))
    return figures
