"""Intervals: coverage by simulation, and the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.audiences.model import SizeState
from engine.audiences.sampling import HITS_MIN, estimated_size, interval_95, relative_error

TRIALS = 20_000


@pytest.mark.parametrize("population", [20_000, 200_000, 1_000_000])
def test_the_true_size_lies_inside_in_95_of_100_samples(population: int) -> None:
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


def test_bounds_never_contradict_what_was_seen() -> None:
    for hits, sampled, population in [(0, 5, 6), (5, 5, 6), (1, 1, 2), (0, 1, 10**9), (999, 1000, 1001)]:
        lower, upper = interval_95(hits, sampled, population)
        assert hits <= lower <= upper <= population - (sampled - hits)


def test_a_larger_share_read_narrows_the_interval_to_nothing() -> None:
    widths = [
        upper - lower
        for sampled in (1_000, 4_000, 8_000, 9_900)
        for lower, upper in [interval_95(sampled // 10, sampled, 10_000)]
    ]
    assert widths == sorted(widths, reverse=True)
    assert estimated_size(1_000, 10_000, 10_000).state is SizeState.EXACT


def test_states() -> None:
    none = estimated_size(0, 1_000, 16_000)
    assert (none.state, none.users, none.lower) == (SizeState.ESTIMATED, 0, 0)
    assert none.upper > 0
    assert estimated_size(HITS_MIN - 1, 1_000, 16_000).state is SizeState.TOO_SMALL
    some = estimated_size(HITS_MIN, 1_000, 16_000)
    assert (some.state, some.users, some.sampled_fraction) == (SizeState.ESTIMATED, 160, 1 / 16)
    nothing_read = estimated_size(0, 0, 7)
    assert (nothing_read.lower, nothing_read.upper) == (0, 7)


def test_relative_error() -> None:
    assert relative_error(estimated_size(5, 5, 5)) == 0.0
    assert relative_error(estimated_size(0, 10, 100)) == math.inf
    size = estimated_size(500, 1_000, 10_000)
    assert relative_error(size) == (size.upper - size.lower) / 2 / 5_000
