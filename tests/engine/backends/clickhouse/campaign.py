"""Compares plans over a cluster with the oracle's, over many random worlds.

    python -m tests.engine.backends.clickhouse.campaign --worlds 5000 --seed 7
    python -m tests.engine.backends.clickhouse.campaign --shards 2 --replicas 2 --jobs 2

World n of a seed is the same on every machine. Attributes keep the columns that an earlier world of the same
database gave them: begin with the first of its `WORLDS_PER_DATABASE` to play one again. Stops at the first
difference and exits with 1.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import multiprocessing
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from engine.backends.base import EventRecord
from engine.backends.clickhouse.server import Address
from engine.plan.model import EventMatch, Plan, Step
from engine.plan.passes import ALL_PASSES
from engine.values import PARTITION_COUNT
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.engine.backends.clickhouse.servers import fresh_cluster, own_servers, reason_to_skip, started
from tests.oracle.campaign import PROGRESS_SECONDS, SEED_BITS, Chunk, chunks, world_of
from tests.oracle.history import histories
from tests.oracle.plans import root_sets
from tests.oracle.trees import Trees
from tests.oracle.world import Batch, World

WORLDS_PER_DATABASE = 25
PROMOTING_SHARE = 0.15
"""Share of the worlds before which other event attributes get columns, and of those after whose rows."""
PROMOTED_MAX = 4
SWEPT_SHARE = 0.1
"""Share of the worlds whose rows that do not count are removed before they are asked about."""
BY_USER_SHARE = 0.4
"""Share of the worlds that are asked about each of their users. The others are asked for all users, which
reads the base if there is one.
"""
PAGES_MAX = 4
"""Pages of members of one set."""
IN_MEMORY = Path("/dev/shm")
"""Where servers keep their files if it is there: no insert waits for a disk."""


def differences(gateway: Gateway, world: World, source: random.Random, kinds: Counter[str]) -> list[str]:
    """Where the plan of all milestones of a world, each of its steps a root, differs from the oracle."""
    trees = Trees(world)
    if not trees.milestones:
        return []
    if source.random() < PROMOTING_SHARE:
        gateway.promote(_some_attributes(world, source))
    gateway.feed(world, source)
    if source.random() < PROMOTING_SHARE:
        # Rows are there without the columns.
        gateway.promote(_some_attributes(world, source))
    users = histories(world)
    plan = trees.plan(passes=ALL_PASSES if source.random() < 0.5 else ())
    everything = msgspec.structs.replace(plan, roots=(*plan.roots, *range(len(plan.steps))))
    expected = root_sets(everything, users)
    for root, found in zip(everything.roots, expected, strict=True):
        kinds[_kind(plan.steps[root])] += 1
        kinds[f"{_kind(plan.steps[root])}, not empty"] += bool(found)
    if source.random() < SWEPT_SHARE:
        gateway.sweep(world.account)
    return list(_differences(gateway, everything, expected, [*users, "nobody"], source))


def _some_attributes(world: World, source: random.Random) -> list[str]:
    """Some of the keys that events of a world have."""
    batches = (each for each in world.operations if isinstance(each, Batch))
    records = itertools.chain.from_iterable(each.records for each in batches)
    keys = {key for each in records if isinstance(each, EventRecord) for key in each.attributes}
    return source.sample(sorted(keys), min(len(keys), source.randrange(PROMOTED_MAX + 1)))


def _differences(
    gateway: Gateway, plan: Plan, expected: list[frozenset[str]], users: list[str], source: random.Random
) -> Iterator[str]:
    by_user = source.random() < BY_USER_SHARE
    answer = gateway.flags(plan, users) if by_user else gateway.found(plan)
    for root, wanted, found in zip(plan.roots, expected, answer, strict=True):
        if wanted != found:
            yield f"missing {sorted(wanted - found)}, too many {sorted(found - wanted)}: {plan.steps[root]}"
    # Each statement takes a server tens of milliseconds to analyse, so half of the worlds have one more.
    if source.random() < 0.5:
        return
    yield from source.choice((_members, _members, _sizes, _halves))(gateway, plan, expected, source)


def _members(
    gateway: Gateway, plan: Plan, expected: list[frozenset[str]], source: random.Random
) -> Iterator[str]:
    chosen = source.randrange(len(plan.roots))
    one = msgspec.structs.replace(plan, roots=(plan.roots[chosen],))
    least = len(expected[chosen]) // PAGES_MAX + 1
    members = gateway.members(one, source.choice((least, least + 2, None)))
    if len(members) != len(set(members)) or set(members) != expected[chosen]:
        yield f"members {members} instead of {sorted(expected[chosen])}: {plan.steps[plan.roots[chosen]]}"


def _sizes(
    gateway: Gateway, plan: Plan, expected: list[frozenset[str]], source: random.Random
) -> Iterator[str]:
    sizes, wanted = gateway.sizes(plan), [len(each) for each in expected]
    if sizes != wanted:
        yield f"sizes {sizes} instead of {wanted}"


def _halves(
    gateway: Gateway, plan: Plan, expected: list[frozenset[str]], source: random.Random
) -> Iterator[str]:
    half = sorted(source.sample(range(PARTITION_COUNT), PARTITION_COUNT // 2))
    others = sorted(set(range(PARTITION_COUNT)) - set(half))
    sizes = [gateway.sizes(plan, partitions) for partitions in (half, others)]
    if [sum(each) for each in zip(*sizes, strict=True)] != [len(each) for each in expected]:
        yield f"the sizes of two halves of the partitions, {sizes}, do not add up"


def _kind(step: Step) -> str:
    name = type(step).__name__
    return f"{name} {step.aggregate.name}" if isinstance(step, EventMatch) else name


def run_chunk(chunk: Chunk, shards: Sequence[Sequence[Address]]) -> tuple[str, Counter[str]]:
    """Compares the worlds of a chunk in a database of its own. Returns the first difference, or "", and how
    many steps of each kind were compared.
    """
    kinds: Counter[str] = Counter()
    with fresh_cluster(shards) as cluster:
        gateway = Gateway(cluster)
        try:
            for number in range(chunk.first, chunk.first + chunk.count):
                world = world_of(chunk.seed, number)
                found = differences(gateway, world, random.Random(f"{chunk.seed} {number}"), kinds)
                if found:
                    return "\n  ".join([f"world {number} of seed {chunk.seed} differs:", *found]), kinds
        finally:
            gateway.close()
    return "", kinds


def run(shards: Sequence[Sequence[Address]], seed: int, first: int, count: int, jobs: int) -> int:
    """Runs the campaign, prints progress and returns the exit code."""
    began = printed = time.monotonic()
    kinds: Counter[str] = Counter()
    done = 0
    # Connections must not cross a fork.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        todo = list(chunks(seed, first, count, WORLDS_PER_DATABASE))
        compare = functools.partial(run_chunk, shards=shards)
        for chunk, (text, own) in zip(todo, pool.imap(compare, todo), strict=True):
            if text:
                print(text, flush=True)
                return 1
            kinds.update(own)
            done += chunk.count
            if time.monotonic() - printed > PROGRESS_SECONDS or done == count:
                printed = time.monotonic()
                print(f"{done} worlds, no difference, {printed - began:.0f} s", flush=True)
    answers = sum(times for kind, times in kinds.items() if not kind.endswith("not empty"))
    print(f"{answers} sets of users compared:")
    for kind in sorted(each for each in kinds if not each.endswith("not empty")):
        print(f"  {kind:32} {kinds[kind]:8}, {kinds[f'{kind}, not empty']} not empty")
    return 0


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--worlds", type=int, default=200, help="how many worlds (default %(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="the seed (default: a new one, printed)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first world")
    parser.add_argument("--shards", type=int, default=1, help="shards to start (default %(default)s)")
    parser.add_argument("--replicas", type=int, default=1, help="replicas of each (default %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="worlds at a time (default %(default)s)")
    options = parser.parse_args()
    if reason := reason_to_skip():
        print(f"SKIPPED: {reason}", file=sys.stderr)
        return 0
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    print(f"{options.worlds} worlds from {options.first} on, --seed {seed}", flush=True)
    if own := own_servers():
        return run(own, seed, options.first, options.worlds, options.jobs)
    with (
        tempfile.TemporaryDirectory(
            prefix="clickhouse-", dir=IN_MEMORY if IN_MEMORY.is_dir() else None
        ) as place,
        started(Path(place), options.shards, options.replicas) as servers,
    ):
        addresses = [[server.address for server in shard] for shard in servers]
        return run(addresses, seed, options.first, options.worlds, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
