"""The laws of the criteria language, held by the engine over random worlds, whatever the criteria mean."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.backends.base import Count
from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    Criterion,
    Event,
    Exists,
    Not,
    OlderThan,
    Sequence,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.values import MICROS_PER_DAY, PARTITION_COUNT
from tests.oracle.engine_side import EngineSide
from tests.oracle.strategies import worlds, worlds_with_criteria
from tests.oracle.trees import Trees
from tests.oracle.world import Milestone, World, walk
from tests.short_forms import examples

pytestmark = pytest.mark.oracle

over_worlds = settings(
    max_examples=examples(20),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)

WorldAndCriteria = tuple[World, list[Criterion]]
_replace = msgspec.structs.replace


class Sets:
    """The sets of criteria in a world's first journey, as the engine answers them."""

    def __init__(self, side: EngineSide, world: World) -> None:
        side.feed(world)
        self._side = side
        self._trees = Trees(world)
        self._journey = world.journeys[0].id

    def __call__(self, criterion: Criterion, at: int | None = None) -> frozenset[str]:
        return self._side.members(self._trees.criterion_plan(self._journey, criterion, at))[0]


@over_worlds
@given(drawn=worlds_with_criteria(1))
def test_not_is_the_complement_within_the_journey(engine_side: EngineSide, drawn: WorldAndCriteria) -> None:
    world, (criterion,) = drawn
    members = Sets(engine_side, world)
    inside, outside, everyone = members(criterion), members(Not(criterion=criterion)), members(AllOf())
    assert inside | outside == everyone
    assert inside & outside == set()
    assert members(Not(criterion=Not(criterion=criterion))) == inside
    assert members(AnyOf(criteria=(criterion, Not(criterion=criterion)))) == everyone
    assert members(AllOf(criteria=(criterion, Not(criterion=criterion)))) == set()


@over_worlds
@given(drawn=worlds_with_criteria(3))
def test_groups_are_sets_and_de_morgan_holds(engine_side: EngineSide, drawn: WorldAndCriteria) -> None:
    world, criteria = drawn
    members, group = Sets(engine_side, world), tuple(criteria)
    sets = [members(criterion) for criterion in criteria]
    opposites = tuple(Not(criterion=criterion) for criterion in criteria)
    assert members(AllOf(criteria=group)) == sets[0] & sets[1] & sets[2]
    assert members(AnyOf(criteria=group)) == sets[0] | sets[1] | sets[2]
    assert members(Not(criterion=AllOf(criteria=group))) == members(AnyOf(criteria=opposites))
    assert members(Not(criterion=AnyOf(criteria=group))) == members(AllOf(criteria=opposites))


@over_worlds
@given(world=worlds())
def test_siblings_and_remaining_users_partition_their_parent(engine_side: EngineSide, world: World) -> None:
    members = engine_side.all_members(world)
    for journey in world.journeys:
        everyone = engine_side.members(Trees(world).criterion_plan(journey.id, AllOf()))[0]
        assert_split(journey.milestones, everyone, members)
        for milestone in walk(journey.milestones):
            assert_split(milestone.children, members[milestone.id], members)


def assert_split(
    split: tuple[Milestone, ...], parent: frozenset[str], members: dict[str, frozenset[str]]
) -> None:
    """Siblings are disjoint parts of their parent, and with remaining users they are all of it."""
    taken: frozenset[str] = frozenset()
    for milestone in split:
        assert members[milestone.id] <= parent - taken
        taken |= members[milestone.id]
    if split and split[-1].criteria is None:
        assert taken == parent


@over_worlds
@given(drawn=worlds_with_criteria(2), lapse=st.integers(-400, 400))
def test_as_of_affects_only_windows(engine_side: EngineSide, drawn: WorldAndCriteria, lapse: int) -> None:
    world, criteria = drawn
    # A retention is a window of every event, so that there must be none.
    world = _replace(world, event_retention=0)
    members = Sets(engine_side, world)
    for criterion in map(timeless, criteria):
        assert members(criterion) == members(criterion, world.as_of + lapse * MICROS_PER_DAY + 1)


def timeless(criterion: Criterion) -> Criterion:
    """The criterion without its windows and relative tests."""
    match criterion:
        case AllOf() | AnyOf():
            return _replace(criterion, criteria=tuple(map(timeless, criterion.criteria)))
        case Not():
            return _replace(criterion, criterion=timeless(criterion.criterion))
        case UserAttribute():
            return _replace(criterion, test=timeless_test(criterion.test))
        case Event():
            return _replace(criterion, window=None, where=timeless_where(criterion.where))
        case Sequence():
            steps = tuple(_replace(step, where=timeless_where(step.where)) for step in criterion.steps)
            return _replace(criterion, window=None, steps=steps)
        case Audience():
            # Another milestone's criteria keep their windows.
            return AllOf()
        case _:
            return criterion


def timeless_where(where: Where | None) -> Where | None:
    match where:
        case WhereAll() | WhereAny():
            kept = [part for part in map(timeless_where, where.conditions) if part is not None]
            return _replace(where, conditions=tuple(kept))
        case WhereNot():
            return _replace(where, condition=timeless_where(where.condition))
        case WhereAttribute():
            return _replace(where, test=timeless_test(where.test))
        case None:
            return None


def timeless_test(test: ValueTest) -> ValueTest:
    return Exists() if isinstance(test, WithinLast | OlderThan) else test


@over_worlds
@given(world=worlds(), cuts=st.sets(st.integers(1, PARTITION_COUNT - 1), max_size=4))
def test_sizes_over_parts_of_the_partitions_add_up(
    engine_side: EngineSide, world: World, cuts: set[int]
) -> None:
    engine_side.feed(world)
    plan = Trees(world).plan()
    ends = [0, *sorted(cuts), PARTITION_COUNT]
    parts = [
        engine_side.backend.execute(plan, Count(), partitions=range(start, end)).sizes
        for start, end in itertools.pairwise(ends)
    ]
    assert [sum(sizes) for sizes in zip(*parts, strict=True)] == engine_side.sizes(plan)
