"""Puts faults into copies of the engine and checks that random worlds find each of them.

    python -m tests.faults.mutation_run --worlds 300 --seed 7
    python -m tests.faults.mutation_run --only "split"

Each fault is alone in a copy of `engine` and `tests`, whose worlds are compared with the oracle in a process
of its own (`tests.oracle.campaign`). Prints the world that found it, and exits with 1 when a fault was not
found within `--worlds` worlds. The faults are in `mutants.py`.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.mutants import MUTANTS, Mutant
from tests.oracle.campaign import WORLDS_PER_STORE, Chunk, Laboratory, world_of

ROOT = Path(__file__).parents[2]
WORLDS = 300
SEED_BITS = 32
PACKAGES = ("engine", "tests")
NOT_FOUND = -1
TIMEOUT_S = 3_600.0


def copy_of_engine(directory: Path) -> None:
    """Copies what the worlds need."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.tar.xz")
        shutil.copytree(ROOT / package, directory / package, ignore=ignored)


def put(mutant: Mutant, directory: Path) -> None:
    """Puts the fault into a copy. Raises ValueError unless its place is there exactly once."""
    file = directory / "engine" / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.before) != 1:
        raise ValueError(f"{mutant.name}: {text.count(mutant.before)} places for it in engine/{mutant.file}")
    file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")


def first_difference(directory: Path, seed: int, worlds: int) -> int:
    """The number of the first world in which the copy differs from the oracle; NOT_FOUND for none."""
    command = [sys.executable, "-m", "tests.faults.mutation_run", "--look", "--seed", str(seed)]
    found = subprocess.run(
        [*command, "--worlds", str(worlds)],
        cwd=directory,
        # Bytecode of the copy before would be taken for that of this one.
        env={**os.environ, "PYTHONPATH": str(directory), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    return int(found.stdout.split()[-1])


def look(seed: int, worlds: int) -> int:
    """As `first_difference`, of the engine that is imported."""
    for first in range(0, worlds, WORLDS_PER_STORE):
        with Laboratory(Chunk(seed, first, WORLDS_PER_STORE).limits) as laboratory:
            for number in range(first, min(first + WORLDS_PER_STORE, worlds)):
                if laboratory.differences_of(world_of(seed, number), f"{seed} {number}"):
                    return number
    return NOT_FOUND


def run(mutants: tuple[Mutant, ...], seed: int, worlds: int) -> int:
    """Puts in and looks for every fault; returns the exit code."""
    print(f"{len(mutants)} faults, {worlds} worlds for each, --seed {seed}", flush=True)
    missed = 0
    for mutant in mutants:
        with tempfile.TemporaryDirectory(prefix="mutant-") as temporary:
            directory = Path(temporary)
            copy_of_engine(directory)
            put(mutant, directory)
            started = time.monotonic()
            number = first_difference(directory, seed, worlds)
        missed += number == NOT_FOUND
        found = "NOT FOUND" if number == NOT_FOUND else f"found by world {number}"
        print(f"{mutant.name}: {found}, {time.monotonic() - started:.0f} s", flush=True)
    print(f"{len(mutants) - missed} of {len(mutants)} faults found")
    return 1 if missed else 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.faults.mutation_run", description=__doc__.split("\n\n")[0])
    parser.add_argument("--worlds", type=int, default=WORLDS, help="for each fault (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="of the worlds (default: a new one, printed)")
    parser.add_argument("--only", default="", help="only the faults whose name contains this")
    parser.add_argument("--look", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    if options.look:
        print(look(seed, options.worlds))
        return 0
    return run(tuple(mutant for mutant in MUTANTS if options.only in mutant.name), seed, options.worlds)


if __name__ == "__main__":
    sys.exit(main())
