"""Intervals: coverage by simulation, and edge cases."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from pyroaring import BitMap

from engine.audiences.model import Size, SizeState
from engine.audiences.sampling import (
    HITS_MIN,
    coherent,
    design_effects,
    estimated_size,
    interval_95,
    relative_error,
)
from engine.backends.base import Block
from engine.backends.local.users.halvings import HALVINGS_MAX, Halvings
from engine.plan.model import BucketMatch, Difference, Intersection, Plan, Union, Universe
from engine.values import PARTITION_COUNT

TRIALS = 20_000


@pytest.mark.parametrize("population", [20_000, 200_000, 1_000_000])
def test_interval_covers_the_true_size_for_95_percent_of_samples(population: int) -> None:
    """Sizes from 0.01 % to 99 %, samples as the hash makes them: each user is read with the same chance."""
    random = np.random.default_rng(20_261_123)
    inside = 0
    for _ in range(TRIALS):
        share = random.uniform(1e-4, 0.99)
        if random.random() < 0.5:
            share = math.exp(random.uniform(math.log(1e-4), math.log(0.99)))
        size = max(1, round(share * population))
        sampled = int(random.binomial(population, random.choice([1 / 16, 1 / 8, 1 / 4, 1 / 2])))
        hits = int(random.hypergeometric(size, population - size, sampled))
        lower, upper = interval_95(hits, sampled, population)
        inside += lower <= size <= upper
    assert 0.94 <= inside / TRIALS <= 0.97


def test_bounds_never_contradict_the_sample() -> None:
    for hits, sampled, population in [(0, 5, 6), (5, 5, 6), (1, 1, 2), (0, 1, 10**9), (999, 1000, 1001)]:
        lower, upper = interval_95(hits, sampled, population)
        assert hits <= lower <= upper <= population - (sampled - hits)


def test_interval_narrows_to_nothing_with_the_share_read() -> None:
    widths = [
        upper - lower
        for sampled in (1_000, 4_000, 8_000, 9_900)
        for lower, upper in [interval_95(sampled // 10, sampled, 10_000)]
    ]
    assert widths == sorted(widths, reverse=True)
    assert estimated_size(1_000, 10_000, 10_000).state is SizeState.EXACT


@pytest.mark.parametrize("partitions", [64, 128, 256, 512])
def test_small_sizes_keep_95_percent_coverage(partitions: int) -> None:
    """Exact: the probabilities of all hit counts whose bounds contain the size, added up."""
    population = 100_000
    sampled = population * partitions // PARTITION_COUNT
    bounds = [interval_95(hits, sampled, population) for hits in range(121)]
    for size in [*range(41), 60, 80, 100, 120]:
        chances = hypergeometric(size, sampled, population)
        inside = sum(
            chance for hits, chance in enumerate(chances) if bounds[hits][0] <= size <= bounds[hits][1]
        )
        assert inside >= 0.95, size
        # Nor is there a member too many in the bounds of the users that were not hit.
        mirrored = sum(
            chance
            for hits, chance in enumerate(chances)
            if contains(interval_95(sampled - hits, sampled, population), population - size)
        )
        assert mirrored >= 0.95, size


def contains(bounds: tuple[int, int], size: int) -> bool:
    return bounds[0] <= size <= bounds[1]


def hypergeometric(size: int, sampled: int, population: int) -> list[float]:
    """The chance of each number of hits, with whole numbers."""
    ways = math.comb(population, size)
    return [
        math.comb(sampled, hits) * math.comb(population - sampled, size - hits) / ways
        for hits in range(size + 1)
    ]


def test_states() -> None:
    none = estimated_size(0, 6_250, 100_000)
    assert (none.state, none.users, none.lower, none.upper) == (SizeState.TOO_SMALL, 0, 0, 58)
    assert estimated_size(HITS_MIN - 1, 1_000, 16_000).state is SizeState.TOO_SMALL
    some = estimated_size(HITS_MIN, 1_000, 16_000)
    assert (some.state, some.users, some.sampled_fraction) == (SizeState.ESTIMATED, 160, 1 / 16)


# --- the spread between partitions --------------------------------------------------------------------------


def blocks_of(counts: Sequence[int], users: int) -> list[Block]:
    """A block of as many partitions as there are counts, with as many users each."""
    halvings = Halvings(len(counts))
    ranks = np.repeat(np.arange(len(counts), dtype=np.uint16), users)
    halvings.extend(ranks)
    members = [rank * users + at for rank, count in enumerate(counts) for at in range(count)]
    everyone = BitMap(range(len(ranks)))
    found = BitMap(members)
    halves = (halvings.counts(found), halvings.counts(everyone))
    return [Block((len(found), len(everyone)), halves)]


def test_simple_sample_has_almost_no_design_effect() -> None:
    random = np.random.default_rng(20_261_128)
    effects = [
        design_effects(blocks_of(random.binomial(200, share, 64).tolist(), 200), 1)[0]
        for share in random.uniform(0.01, 0.99, 200)
    ]
    assert min(effects) == 1.0
    assert np.mean(effects) < 1.2
    assert np.quantile(effects, 0.95) < 1.7


def test_whole_partitions_count_as_one_user_each() -> None:
    """Six of 64 partitions are members as a whole."""
    (effect,) = design_effects(blocks_of([200] * 6 + [0] * 58, 200), 1)
    assert effect == pytest.approx(200, rel=0.5)
    lower, upper = interval_95(1_200, 12_800, 204_800, effect)
    assert (lower / 204_800, upper / 204_800) == pytest.approx((0.045, 0.19), abs=0.015)


def test_halves_agree_for_sparse_and_dense_sets() -> None:
    random = np.random.default_rng(20_261_129)
    halvings = Halvings(64)
    ranks = random.integers(0, 64, 70_000).astype(np.uint16)
    for first in range(0, len(ranks), 30_000):
        halvings.extend(ranks[first : first + 30_000])
    for share in (0.0, 0.001, 0.05, 0.1, 0.5, 1.0):
        members = np.flatnonzero(random.random(len(ranks)) < share)
        by_rank = np.bincount(ranks[members], minlength=64).tolist()
        expected = tuple(
            sum(count for rank, count in enumerate(by_rank) if bin(rank & way).count("1") & 1)
            for way in range(1, HALVINGS_MAX + 1)
        )
        assert halvings.counts(BitMap(members.tolist())) == expected


def test_clustered_sets_keep_95_percent_coverage() -> None:
    """A tenth of the partitions are members as a whole, as with an attribute derived from the id hash: the
    bounds contain the true size for 95 % of the choices of partitions.
    """
    random = np.random.default_rng(20_261_130)
    population, each = 100_352, 98
    whole = np.zeros(PARTITION_COUNT, np.int64)
    whole[:103] = each
    inside = 0
    for _ in range(300):
        read = random.permutation(whole)[:64].tolist()
        (effect,) = design_effects(blocks_of(read, each), 1)
        inside += contains(interval_95(sum(read), 64 * each, population, effect), int(whole.sum()))
    assert inside >= 276


# --- several sizes ------------------------------------------------------------------------------------------


def test_subset_bounds_never_exceed_superset_bounds() -> None:
    steps = (
        Universe(inputs=("i",)),
        BucketMatch(salt="a", first=0, last=1),
        BucketMatch(salt="b", first=0, last=1),
        Intersection(operands=(0, 1)),
        Intersection(operands=(0, 1, 2)),
        Difference(minuend=3, subtrahend=2),
        Union(operands=(1, 2)),
    )
    plan = Plan(account="a", as_of=0, steps=steps, roots=(4, 5, 3, 6, 0))

    def size(users: int, lower: int, upper: int) -> Size:
        return Size(state=SizeState.ESTIMATED, users=users, lower=lower, upper=upper, sampled_fraction=0.1)

    found = coherent([size(40, 20, 90), size(60, 50, 85), size(70, 30, 80), size(75, 60, 78)], plan)
    bounds = [(each.lower, each.users, each.upper) for each in found]
    # 4 and 5 lie within 3, which lies within 6 (users for whom 1 or 2 is true).
    assert bounds == [(20, 40, 78), (50, 60, 78), (50, 70, 78), (60, 75, 78)]


def test_relative_error() -> None:
    assert relative_error(estimated_size(5, 5, 5)) == 0.0
    assert relative_error(estimated_size(0, 10, 100)) == math.inf
    size = estimated_size(500, 1_000, 10_000)
    assert relative_error(size) == (size.upper - size.lower) / 2 / 5_000
