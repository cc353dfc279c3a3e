"""Random worlds under a clock that jumps, by minutes to years, both ways, across restarts.

    python -m tests.faults.clock_rounds --rounds 200 --seed 7
    python -m tests.faults.clock_rounds --seed 7 --first 12 --rounds 1    # one of them again

In each round a world of the oracle happens in a store with activated audiences and, most times, a retention.
After each step
1. no event, event id or request id is removed that a right clock would keep;
2. checks, lists and change logs agree, even while the clock is wrong; each jump is logged;
3. once the clock is right, counts, estimates, checks and accumulated changes are those of the oracle;
4. in the end the clock is trusted, and events past the retention are removed.

Round n of a seed is the same on every machine. Stops at the first fault, and exits with 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.clock_round import ClockRound

SEED_BITS = 32
ROUNDS = 20
PROGRESS_S = 10.0


@dataclass(frozen=True)
class Played:
    """What happened in a round, and the fault that ended it ("" = none)."""

    number: int
    jumps: int
    removals: int
    fault: str = ""


def play(job: tuple[int, int]) -> Played:
    """Round `number` of a seed."""
    seed, number = job
    with tempfile.TemporaryDirectory(prefix="milepost-clock-", ignore_cleanup_errors=True) as directory:
        played, fault = ClockRound(Path(directory) / "store", f"{seed} {number}"), ""
        try:
            played.play()
        except Exception as error:  # whatever is raised is a fault, to be reported with its round
            frame = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
    return Played(number, played.jumps, played.removals, fault)


def run(seed: int, first: int, rounds: int, jobs: int) -> int:
    """Runs the rounds, prints progress and returns the exit code."""
    print(f"{rounds} rounds from {first} on, --seed {seed}", flush=True)
    began = printed = time.monotonic()
    done, jumps, removals = 0, 0, 0
    # Stores must not cross a fork.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for played in pool.imap(play, [(seed, number) for number in range(first, first + rounds)]):
            if played.fault:
                print(f"round {played.number} of --seed {seed}: {played.fault}", flush=True)
                again = f"--seed {seed} --first {played.number} --rounds 1"
                print(f"again: python -m tests.faults.clock_rounds {again}", flush=True)
                return 1
            done, jumps, removals = done + 1, jumps + played.jumps, removals + played.removals
            if time.monotonic() - printed > PROGRESS_S or done == rounds:
                printed = time.monotonic()
                tally = f"{done} rounds, {jumps} jumps, {removals} removals"
                print(f"{tally}, no difference, {printed - began:.0f} s", flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.clock_rounds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how many rounds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    options = parser.parse_args(arguments)
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    return run(seed, options.first, options.rounds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
