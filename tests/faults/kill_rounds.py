"""Kills the service repeatedly while clients write, and compares its data with its acknowledgements.

    python -m tests.faults.kill_rounds --rounds 1000 --seed 7
    python -m tests.faults.kill_rounds --rounds 1000 --jobs 2 --directory /var/tmp/rounds

In each round 1. the service starts on the store of the last round, and is sometimes killed during the start;
2. each acknowledged event must be present once, each unacknowledged batch completely or not at all, and each
attribute with its latest value; revisions never go back, and reads can request the last one returned; 3. six
clients write through streams and single calls: new batches, repeated batches and events, batches that the
kill left unanswered, rows and aliases that must be rejected, and erasures; 4. after a random time the process
gets SIGKILL, sometimes right after a commit to its index or during a stop; in many rounds it checkpoints
constantly. Sometimes it stops normally.

The users of a round are compared in the next one, everything every `WHOLE_ROUNDS`. The seed chooses batches
and moments, but not where exactly a process ends. Stops at the first difference, keeps the store, and exits
with 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.kill_round import KillRounds, RoundFailed, Tally

SEED_BITS = 32
ROUNDS = 20
PROGRESS_S = 30.0


@dataclass(frozen=True)
class Job:
    """Rounds on one store."""

    directory: Path
    seed: str
    rounds: int


def play(job: Job) -> tuple[Tally, str]:
    """Runs the rounds of a job. Returns their figures, and the fault that ended them ("" = none)."""
    played = KillRounds(job.directory, job.seed)
    printed = time.monotonic()
    try:
        for number in range(1, job.rounds + 1):
            played.round()
            if time.monotonic() - printed > PROGRESS_S:
                printed = time.monotonic()
                print(f"{number} rounds of {job.rounds}: {played.tally}", flush=True)
        played.finish()
    except RoundFailed as failure:
        return played.tally, f"round {played.tally.rounds} of --seed {job.seed} in {job.directory}: {failure}"
    shutil.rmtree(job.directory)
    return played.tally, ""


def run(seed: int, rounds: int, jobs: int, directory: Path) -> int:
    """Runs the rounds, `jobs` stores at a time, prints the outcome and returns the exit code."""
    print(f"{rounds} rounds, --seed {seed}", flush=True)
    began = time.monotonic()
    share = -(-rounds // jobs)
    todo = [Job(directory / f"store-{n}", f"{seed} {n}", min(share, rounds - n * share)) for n in range(jobs)]
    total, faults = Tally(), []
    for tally, fault in _played(todo):
        total.add(tally)
        faults += [fault] if fault else []
    for fault in faults:
        print(fault, flush=True)
    lost = "no difference" if not faults else f"{len(faults)} stores differ"
    print(
        f"{total.rounds} rounds, {lost}, {time.monotonic() - began:.0f} s, --seed {seed}: {total}", flush=True
    )
    return 1 if faults else 0


def _played(todo: Sequence[Job]) -> list[tuple[Tally, str]]:
    if len(todo) == 1:
        return [play(todo[0])]
    # Not forked: gRPC does not survive it.
    with multiprocessing.get_context("spawn").Pool(len(todo)) as pool:
        return pool.map(play, todo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.kill_rounds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many rounds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--jobs", type=int, default=1, help="stores at a time (default %(default)s)")
    parser.add_argument("--directory", type=Path, default=None, help="where the stores are made")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    directory = options.directory or Path(tempfile.mkdtemp(prefix="milepost-rounds-"))
    return run(seed, options.rounds, options.jobs, directory)


if __name__ == "__main__":
    sys.exit(main())
