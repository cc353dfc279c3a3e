"""A service under mixed load for a long time: its memory, threads and descriptors stay flat.

    python -m tests.faults.soak --minutes 30 --readers 1

Callers check, ingest, update, estimate, count, list and watch by the profile `soak`, in the rhythm of real
callers. A line is printed twenty times in a run. The middle of the run is the plateau: from there to the end
threads and descriptors may not grow, and memory by `GROWTH_MAX` at most. Every call has to succeed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.load import calls, profile, runners
from clients.load.profile import Profile
from milepost import Client
from milepost.cli.service_process import ServiceProcess
from tests.bench.process import children_of, cpu_seconds, status_bytes

SAMPLES = 20
GROWTH_MAX = 1.15
"""Of memory, from the middle of a run to its end. Callers write data all the time."""
SLACK = 4
"""Threads or descriptors that may be more: a call may be under way when they are counted."""
MIB = 1 << 20
FLAGS = ("--log-level", "error", "--access-log", "none")


@dataclass(frozen=True)
class Sample:
    """Figures of the service and its readers together. Memory is what they do not share with files."""

    second: float
    memory_bytes: int
    threads: int
    descriptors: int
    cpu_seconds: float


def take(second: float, pid: int) -> Sample:
    """The figures of this moment."""
    pids = [pid, *children_of(pid)]
    return Sample(
        second=second,
        memory_bytes=sum(status_bytes(each, "RssAnon") for each in pids),
        threads=sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in pids),
        descriptors=sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in pids),
        cpu_seconds=sum(map(cpu_seconds, pids)),
    )


def growth(samples: Sequence[Sample]) -> list[str]:
    """What grew between the middle of the run and its end; empty when all stayed flat."""
    middle = len(samples) // 2
    before, after = samples[middle // 2 : middle], samples[middle:]
    found = []
    for name, allowed in (("threads", SLACK), ("descriptors", SLACK)):
        most, now = (max(getattr(each, name) for each in some) for some in (before, after))
        if now > most + allowed:
            found.append(f"{name} grew from {most} to {now}")
    most, now = (max(each.memory_bytes for each in some) for some in (before, after))
    if now > most * GROWTH_MAX:
        found.append(f"memory grew from {most / MIB:.0f} to {now / MIB:.0f} MiB")
    return found


def run(minutes: float, readers: int, used: Profile) -> list[str]:
    """Puts the load on a service of its own. Returns the faults."""
    seconds = minutes * 60
    over = threading.Event()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="milepost-soak-") as scratch:
        flags = (*FLAGS, "--readers", str(readers))
        with ServiceProcess(Path(scratch) / "store", flags=flags) as service:
            with Client(service.target, account=calls.ACCOUNT) as client:
                calls.build(client, used.customers)

            def watch() -> None:
                step = seconds / SAMPLES
                for number in range(1, SAMPLES + 1):
                    if over.wait(step):
                        return
                    samples.append(take(number * step, service.pid))
                    _print(samples[-1])

            print(f"{'s':>6} {'MiB':>7} {'threads':>8} {'descriptors':>12} {'CPU s':>8}", flush=True)
            watcher = threading.Thread(target=watch)
            watcher.start()
            lasting = used.with_options(None, None, seconds)
            try:
                rows = runners.run_locust(lasting, service.target, calls.ACCOUNT)
            except BaseException:
                over.set()
                raise
            finally:
                watcher.join()
    for row in sorted(rows, key=lambda row: row.call):
        print(f"{row.call:<28} {row.calls:>9,} calls  {row.errors:>3} errors  p99 {row.p99_ms:.1f} ms")
    failed = [f"{row.call}: {row.errors} of {row.calls} calls failed" for row in rows if row.errors]
    return failed + growth(samples)


def _print(sample: Sample) -> None:
    memory = sample.memory_bytes / MIB
    counted = f"{sample.threads:>8} {sample.descriptors:>12} {sample.cpu_seconds:>8.1f}"
    print(f"{sample.second:>6.0f} {memory:>7.1f} {counted}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs it; 1 when something grew or failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--profile", default="soak", help="name or file of a load profile")
    options = parser.parse_args(arguments)
    faults = run(options.minutes, options.readers, profile.read(profile.find(options.profile)))
    for fault in faults:
        print(f"fault: {fault}")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
