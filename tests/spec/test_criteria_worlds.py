"""The engine agrees with the oracle on the users of every milestone, over random worlds and journeys.

`make fuzz-criteria` runs the same comparison over as many worlds as it is given.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle.campaign import Laboratory, world_of
from tests.oracle.differences import in_engine, in_expiry, in_explanations, in_labels, in_planner
from tests.oracle.engine_side import EngineSide
from tests.oracle.palette import DURATIONS
from tests.oracle.strategies import worlds
from tests.oracle.trees import Trees
from tests.oracle.world import World
from tests.short_forms import examples

pytestmark = pytest.mark.oracle

SEEDS = st.integers(0, 2**32 - 1)
"""Chooses the ways in which a world is asked about: passes, checkpoints, restarts, how far time moves."""


def over_worlds(count: int) -> settings:
    """Number of examples. Worlds are large but bounded, and timing never decides a test."""
    too_large = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=examples(count), suppress_health_check=too_large)


@over_worlds(30)
@given(world=worlds(), seed=SEEDS)
def test_engine_agrees_with_the_oracle(engine_side: EngineSide, world: World, seed: int) -> None:
    """Members, sizes and single-user checks of every milestone; with random subsets of the planner's passes;
    with a checkpoint or a restart in between; and the stored membership, refreshed with the users whom new
    data or time may have moved.
    """
    assert in_engine(Trees(world), engine_side, random.Random(seed)) == []


@over_worlds(25)
@given(world=worlds(), seed=SEEDS)
def test_no_subset_of_the_passes_changes_an_answer(world: World, seed: int) -> None:
    assert in_planner(Trees(world), random.Random(seed)) == []


@over_worlds(25)
@given(world=worlds(), seed=SEEDS)
def test_labelled_criterion_counts_within_the_draw(world: World, seed: int) -> None:
    assert in_labels(Trees(world), random.Random(seed)) == []


@over_worlds(25)
@given(world=worlds(), seed=SEEDS)
def test_explanations_name_the_decisive_criteria(world: World, seed: int) -> None:
    assert in_explanations(Trees(world), random.Random(seed)) == []


@over_worlds(25)
@given(world=worlds(), lapse=st.sampled_from(DURATIONS))
def test_expiry_covers_every_moved_user(world: World, lapse: int) -> None:
    assert in_expiry(Trees(world), world.as_of + lapse) == []


@pytest.mark.parametrize("limits", [1, 3, 5, 7])
def test_reduced_limits_change_no_answer(limits: int) -> None:
    """A store with reduced limits takes the code paths of large stores."""
    with Laboratory(limits) as laboratory:
        for number in range(6):
            found = laboratory.differences_of(world_of(limits, number), f"{limits} {number}")
            assert found == [], f"python -m tests.oracle.campaign --seed {limits} --first {number} --worlds 1"
