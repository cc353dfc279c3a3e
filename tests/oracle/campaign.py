"""Compares the engine with the oracle over many random worlds.

    python -m tests.oracle.campaign --worlds 20000 --seed 7 --jobs 2
    python -m tests.oracle.campaign --seed 7 --first 1234 --worlds 1     # one of them again

World n of a seed is the same on every machine. Stops at the first difference, prints the smallest world it
can find that still shows it, and exits with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.errors import MilepostError
from tests.oracle.differences import in_engine, in_expiry, in_explanations, in_labels, in_planner
from tests.oracle.engine_side import EngineSide
from tests.oracle.evaluate import Oracle
from tests.oracle.generate import draw_world
from tests.oracle.minimise import minimise, moved
from tests.oracle.palette import DURATIONS, Chooser, draw_palette
from tests.oracle.strain import strained
from tests.oracle.trees import Trees
from tests.oracle.world import World, fresh_account

WORLDS_PER_STORE = 100
SEED_BITS = 32
PROGRESS_SECONDS = 10.0


@dataclass(frozen=True)
class Chunk:
    """Some consecutive worlds of a seed."""

    seed: int
    first: int
    count: int

    @property
    def limits(self) -> int:
        """Chooses the limits of the store, the same for a world wherever the campaign starts."""
        return self.seed + self.first // WORLDS_PER_STORE


def world_of(seed: int, number: int) -> World:
    """World `number` of a seed."""
    choose = Chooser(random.Random(f"{seed} {number}").randrange)
    return draw_world(choose, draw_palette(choose, fresh_account()))


def run_chunk(chunk: Chunk) -> str:
    """Compares the worlds of a chunk in a separate store. Returns the first difference, or ""."""
    with Laboratory(chunk.limits) as laboratory:
        for number in range(chunk.first, chunk.first + chunk.count):
            world = world_of(chunk.seed, number)
            found = laboratory.differences_of(world, f"{chunk.seed} {number}")
            if found:
                return report(chunk, number, world, found)
    return ""


class Laboratory:
    """A store for worlds, replaced by a new one after a failure. Every other one has its limits brought down
    (`strain`), by its seed; both kinds must answer alike.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> Laboratory:
        self._stack = contextlib.ExitStack()
        self._settings: LocalSettings | None = None
        if self._seed % 2:
            self._settings = self._stack.enter_context(strained(random.Random(self._seed)))
        self._directory = tempfile.TemporaryDirectory(prefix="worlds-", ignore_cleanup_errors=True)
        self._stores = 0
        self._side = self._open()
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(MilepostError):
            self._side.close()
        self._directory.cleanup()
        self._stack.close()

    def _open(self) -> EngineSide:
        self._stores += 1
        opened = functools.partial(LocalBackend.open, settings=self._settings)
        return EngineSide(Path(self._directory.name) / str(self._stores), opened)

    def differences_of(self, world: World, seed: str) -> list[str]:
        """The differences of a world, asked in ways that the seed chooses. An exception is a difference too,
        except those that the oracle raises of a world that cannot be.
        """
        source = random.Random(seed)
        later = world.as_of + source.choice(DURATIONS)
        Oracle(world).all_members()
        try:
            trees = Trees(world)
            found = in_planner(trees, source) + in_labels(trees, source) + in_expiry(trees, later)
            found += in_explanations(trees, source)
            found += in_engine(trees, self._side, source)
        except Exception as error:  # whatever is raised here is a fault, to be reported with its world
            place = traceback.extract_tb(error.__traceback__)[-1]
            self._side = self._open()
            return [f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"]
        return [str(difference) for difference in found]


def report(chunk: Chunk, number: int, world: World, found: list[str]) -> str:
    """The difference, and the smallest world that still differs."""
    seed, ways = chunk.seed, f"{chunk.seed} {number}"
    with Laboratory(chunk.limits) as laboratory:
        smallest = minimise(world, lambda smaller: bool(laboratory.differences_of(smaller, ways)))
        still = laboratory.differences_of(moved(smallest, fresh_account()), ways)
    lines = [
        f"world {number} of seed {seed} differs:",
        *(f"  {line}" for line in found),
        "the smallest world found that differs:" if still else "by itself, in a new store, it does not:",
        f"  as of {smallest.as_of}, {smallest.time_zone}, inputs {smallest.inputs}",
        *(f"  {operation}" for operation in smallest.operations),
        *(f"  {journey}" for journey in smallest.journeys),
        *(f"  {line}" for line in still),
        f"again: python -m tests.oracle.campaign --seed {seed} --first {number} --worlds 1",
    ]
    return "\n".join(lines)


def chunks(seed: int, first: int, count: int, per_store: int = WORLDS_PER_STORE) -> Iterator[Chunk]:
    """The worlds from `first` on, a store's worth at a time."""
    while count > 0:
        size = min(count, per_store - first % per_store)
        yield Chunk(seed, first, size)
        first, count = first + size, count - size


def run(seed: int, first: int, count: int, jobs: int) -> int:
    """Runs the campaign, prints progress and returns the exit code."""
    print(f"{count} worlds from {first} on, --seed {seed}", flush=True)
    started = printed = time.monotonic()
    done = 0
    # Stores must not cross a fork.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        todo = list(chunks(seed, first, count))
        for chunk, text in zip(todo, pool.imap(run_chunk, todo), strict=True):
            if text:
                print(text, flush=True)
                return 1
            done += chunk.count
            if time.monotonic() - printed > PROGRESS_SECONDS or done == count:
                printed = time.monotonic()
                print(f"{done} worlds, no difference, {printed - started:.0f} s", flush=True)
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="tests.oracle.campaign", description=__doc__.split("\n\n")[0])
    parser.add_argument("--worlds", type=int, default=1_000, help="how many worlds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first world")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default %(default)s)")
    options = parser.parse_args()
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    return run(seed, options.first, options.worlds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
