"""The engine's users of every milestone are the oracle's, over random worlds and journeys.

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

pytestmark = pytest.mark.oracle

SEEDS = st.integers(0, 2**32 - 1)
"""Chooses the ways in which a world is asked about: passes, checkpoints, restarts, how far time moves."""


def over_worlds(count: int) -> settings:
    """So many examples. Worlds are large ones, of bounded size, and no time decides a test."""
    too_large = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=count, suppress_health_check=too_large)


@over_worlds(300)
@given(world=worlds(), seed=SEEDS)
def test_the_engine_answers_as_the_oracle_does(engine_side: EngineSide, world: World, seed: int) -> None:
    """Members, sizes and single-user checks of every milestone; with random subsets of the planner's passes;
    with a checkpoint or a restart in between; and the stored membership, refreshed with the users whom new
    data or time may have moved.
    """
    assert in_engine(Trees(world), engine_side, random.Random(seed)) == []


@over_worlds(100)
@given(world=worlds(), seed=SEEDS)
def test_no_subset_of_the_passes_changes_an_answer(world: World, seed: int) -> None:
    assert in_planner(Trees(world), random.Random(seed)) == []


@over_worlds(100)
@given(world=worlds(), seed=SEEDS)
def test_a_labelled_criterion_is_about_the_users_its_milestone_draws_from(world: World, seed: int) -> None:
    assert in_labels(Trees(world), random.Random(seed)) == []


@over_worlds(100)
@given(world=worlds(), seed=SEEDS)
def test_explanations_tell_what_decides(world: World, seed: int) -> None:
    assert in_explanations(Trees(world), random.Random(seed)) == []


@over_worlds(100)
@given(world=worlds(), lapse=st.sampled_from(DURATIONS))
def test_whoever_time_moves_is_expected_to_move(world: World, lapse: int) -> None:
    assert in_expiry(Trees(world), world.as_of + lapse) == []


@pytest.mark.parametrize("limits", [1, 3, 5, 7])
def test_limits_change_no_answer(limits: int) -> None:
    """A store with its limits brought down takes the ways that large stores take."""
    with Laboratory(limits) as laboratory:
        for number in range(12):
            found = laboratory.differences_of(world_of(limits, number), f"{limits} {number}")
            assert found == [], f"python -m tests.oracle.campaign --seed {limits} --first {number} --worlds 1"
