"""A bound plan that is moved to another instant answers like one bound as of that instant."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from engine.backends.base import Contains
from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.predicates import AggregatePredicate
from engine.plan.compile import compile_audiences
from engine.plan.template import audiences_template
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR
from tests.oracle.engine_side import EngineSide
from tests.oracle.strategies import worlds
from tests.oracle.trees import Trees
from tests.oracle.world import World
from tests.short_forms import examples

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
STEPS = st.sampled_from((1, -1, 59 * MICROS_PER_HOUR, 3 * MICROS_PER_DAY, -30 * MICROS_PER_DAY))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSide]:
    side = EngineSide(tmp_path_factory.mktemp("store"))
    yield side
    side.close()


@settings(max_examples=examples(15), suppress_health_check=HEALTH, deadline=None)
@given(world=worlds(), steps=st.lists(STEPS, min_size=1, max_size=3))
def test_a_moved_plan_answers_like_a_new_one(engine: EngineSide, world: World, steps: list[int]) -> None:
    engine.feed(world)
    trees = Trees(world)
    names = trees.audiences()
    template = audiences_template(trees.account, names, trees.resolve)
    users = [*sorted(set().union(*engine.members(trees.plan()))), "unknown"]
    for as_of in (world.as_of, *(world.as_of + step for step in steps)):
        new = compile_audiences(trees.account, names, as_of, trees.resolve, passes=())
        assert engine.contained(template.at(as_of), users) == engine.contained(new, users)
    event(f"{min(len(users), 10)} users")


@settings(max_examples=examples(15), suppress_health_check=HEALTH, deadline=None)
@given(world=worlds(), step=STEPS)
def test_one_user_is_answered_like_several(engine: EngineSide, world: World, step: int) -> None:
    engine.feed(world)
    trees = Trees(world)
    template = audiences_template(trees.account, trees.audiences(), trees.resolve)
    users = [*sorted(set().union(*engine.members(trees.plan()))), "unknown"]
    backend, quickly = engine.backend, 0
    for plan in (template.at(world.as_of), template.at(world.as_of + step)):
        together = backend.execute(plan, Contains((*users, "unknown"))).flags
        with backend._read(None, world.account) as (account, _):
            for user_id, flags in zip(users, together, strict=False):
                alone = None if account is None else backend._executor.contains_one(plan, account, user_id)
                assert alone in (None, flags)
                quickly += alone is not None
    event("quickly" if quickly else "not quickly")


@settings(max_examples=examples(15), suppress_health_check=HEALTH, deadline=None)
@given(world=worlds(records_max=8), step=STEPS)
def test_a_moved_event_predicate_is_the_one_resolved_anew(
    engine: EngineSide, world: World, step: int
) -> None:
    engine.feed(world)
    trees = Trees(world)
    template = audiences_template(trees.account, trees.audiences(), trees.resolve)
    moved_plan = template.at(world.as_of + step)
    with engine.backend._read(None, world.account) as (account, read):
        if account is None:
            return
        bound = BoundPlan(template.at(world.as_of), account, 0, read.pause).moved_to(moved_plan)
        fresh = BoundPlan(moved_plan, account, 0, read.pause)
        assert bound is not None
        for moved, made in zip(bound.predicates, fresh.predicates, strict=True):
            assert type(moved) is type(made)
            if isinstance(made, AggregatePredicate):
                assert vars(moved) == vars(made)
