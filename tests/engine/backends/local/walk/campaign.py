"""Many chapters in a row.

    python -m tests.engine.backends.local.walk.campaign --operations 200000 --seed 7 --jobs 2 python -m
    tests.engine.backends.local.walk.campaign --seed 7 --first 12 --operations 500     # chapter 12 again

Chapter n of a seed is the same on every machine. Stops at the first difference, prints what led to it, and
exits with 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.engine.backends.local.walk.chapter import OPERATIONS, Chapter, Differs

SEED_BITS = 32
PROGRESS_S = 10.0


@dataclass(frozen=True)
class Job:
    """One chapter of a seed."""

    seed: int
    number: int
    operations: int


def play(job: Job) -> tuple[Counter[str], str]:
    """Runs a chapter. Returns operations by kind, and the difference ("" = none)."""
    with tempfile.TemporaryDirectory(prefix="walk-", ignore_cleanup_errors=True) as room:
        chapter = Chapter(f"{job.seed} {job.number}", Path(room))
        try:
            chapter.walk(job.operations)
        except Differs as difference:
            again = f"again: --seed {job.seed} --first {job.number} --operations {job.operations}"
            return chapter.happened, f"chapter {job.number} of seed {job.seed}: {difference}\n{again}"
    return chapter.happened, ""


def jobs_of(seed: int, first: int, operations: int) -> Iterator[Job]:
    """The chapters from `first` on that add up to this many operations."""
    for number, start in enumerate(range(0, operations, OPERATIONS), first):
        yield Job(seed, number, min(OPERATIONS, operations - start))


def run(seed: int, first: int, operations: int, processes: int) -> int:
    """Runs the chapters, prints progress and returns the exit code."""
    print(f"{operations} operations, --seed {seed}", flush=True)
    began = printed = time.monotonic()
    happened: Counter[str] = Counter()
    # Stores must not cross a fork.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for counts, difference in pool.imap(play, jobs_of(seed, first, operations)):
            happened += counts
            if difference:
                print(difference, flush=True)
                return 1
            if time.monotonic() - printed > PROGRESS_S:
                printed = time.monotonic()
                print(f"{happened.total()} operations, no difference, {printed - began:.0f} s", flush=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in happened.most_common())
    seconds = time.monotonic() - began
    print(
        f"{happened.total()} operations, no difference, {seconds:.0f} s, --seed {seed}: {kinds}", flush=True
    )
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="tests.engine.backends.local.walk.campaign", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument(
        "--operations", type=int, default=4_000, help="how many operations (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first chapter")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    options = parser.parse_args()
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    return run(seed, options.first, options.operations, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
