"""Compares plans over a cluster with the oracle's, over many random worlds.

    python -m tests.engine.backends.clickhouse.campaign --worlds 5000 --seed 7
    python -m tests.engine.backends.clickhouse.campaign --shards 2 --replicas 2

World n of a seed is the same on every machine. Stops at the first difference and exits with 1.
"""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.backends.base import Count
from engine.plan.model import EventMatch, Plan, Step
from engine.plan.passes import ALL_PASSES
from engine.values import PARTITION_COUNT
from tests.engine.backends.clickhouse.gateway import Gateway
from tests.engine.backends.clickhouse.servers import fresh_cluster, own_servers, reason_to_skip, started
from tests.oracle.campaign import PROGRESS_SECONDS, SEED_BITS, world_of
from tests.oracle.history import histories
from tests.oracle.plans import root_sets
from tests.oracle.trees import Trees
from tests.oracle.world import World


def differences(gateway: Gateway, world: World, source: random.Random, kinds: Counter[str]) -> list[str]:
    """Where the plan of all milestones of a world, each of its steps a root, differs from the oracle."""
    trees = Trees(world)
    if not trees.milestones:
        return []
    gateway.feed(world, source)
    users = histories(world)
    plan = trees.plan(passes=ALL_PASSES if source.random() < 0.5 else ())
    everything = msgspec.structs.replace(plan, roots=(*plan.roots, *range(len(plan.steps))))
    expected = root_sets(everything, users)
    for root, found in zip(everything.roots, expected, strict=True):
        kinds[_kind(plan.steps[root])] += 1
        kinds[f"{_kind(plan.steps[root])}, not empty"] += bool(found)
    if source.random() < 0.2:
        gateway.sweep(world.account)
    return list(_differences(gateway, everything, expected, [*users, "nobody"], source))


def _differences(
    gateway: Gateway, plan: Plan, expected: list[frozenset[str]], users: list[str], source: random.Random
) -> Iterator[str]:
    for root, wanted, found in zip(plan.roots, expected, gateway.flags(plan, users), strict=True):
        if wanted != found:
            yield f"missing {sorted(wanted - found)}, too many {sorted(found - wanted)}: {plan.steps[root]}"
    if source.random() < 0.4:
        return
    sizes = gateway.sizes(plan)
    if sizes != [len(each) for each in expected]:
        yield f"sizes {sizes} instead of {[len(each) for each in expected]}"
    chosen = source.randrange(len(plan.roots))
    one = msgspec.structs.replace(plan, roots=(plan.roots[chosen],))
    members = gateway.members(one, source.choice((1, 3, None)))
    if len(members) != len(set(members)) or set(members) != expected[chosen]:
        yield f"members {members} instead of {sorted(expected[chosen])}: {plan.steps[plan.roots[chosen]]}"
    half = sorted(source.sample(range(PARTITION_COUNT), PARTITION_COUNT // 2))
    others = sorted(set(range(PARTITION_COUNT)) - set(half))
    if [
        a + b for a, b in zip(_sizes(gateway, plan, half), _sizes(gateway, plan, others), strict=True)
    ] != sizes:
        yield "the sizes of two halves of the partitions do not add up"


def _sizes(gateway: Gateway, plan: Plan, partitions: list[int]) -> tuple[int, ...]:
    return gateway.plans.execute(gateway.view(plan.account), plan, Count(), partitions=partitions).sizes


def _kind(step: Step) -> str:
    name = type(step).__name__
    return f"{name} {step.aggregate.name}" if isinstance(step, EventMatch) else name


def run(gateway: Gateway, seed: int, first: int, count: int) -> int:
    """Runs the campaign, prints progress and returns the exit code."""
    began = printed = time.monotonic()
    kinds: Counter[str] = Counter()
    for number in range(first, first + count):
        world = world_of(seed, number)
        found = differences(gateway, world, random.Random(f"{seed} {number}"), kinds)
        if found:
            print(f"world {number} of seed {seed} differs:", *found, sep="\n  ", flush=True)
            return 1
        if time.monotonic() - printed > PROGRESS_SECONDS or number == first + count - 1:
            printed = time.monotonic()
            print(f"{number - first + 1} worlds, no difference, {printed - began:.0f} s", flush=True)
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
    options = parser.parse_args()
    if reason := reason_to_skip():
        print(f"SKIPPED: {reason}", file=sys.stderr)
        return 0
    seed = secrets.randbits(SEED_BITS) if options.seed is None else options.seed
    print(f"{options.worlds} worlds from {options.first} on, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="clickhouse-") as directory:
        own = own_servers()
        if own:
            with fresh_cluster(own) as cluster:
                return _run_over(Gateway(cluster), seed, options)
        with (
            started(Path(directory), options.shards, options.replicas) as servers,
            fresh_cluster([[server.address for server in shard] for shard in servers]) as cluster,
        ):
            return _run_over(Gateway(cluster), seed, options)


def _run_over(gateway: Gateway, seed: int, options: argparse.Namespace) -> int:
    try:
        return run(gateway, seed, options.first, options.worlds)
    finally:
        gateway.close()


if __name__ == "__main__":
    sys.exit(main())
