"""A run over everyone at once finds the users that the runs over each group find, step by step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.base import Count
from engine.backends.local.query.bound_plan import BoundPlan
from engine.backends.local.query.runs import GroupRun, WholeRun
from engine.backends.local.storage.ordinals import Ordinals
from engine.plan.model import Plan
from tests.oracle.engine_side import EngineSide
from tests.oracle.strategies import worlds
from tests.oracle.trees import Trees
from tests.oracle.world import World
from tests.short_forms import examples

HEALTH = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSide]:
    side = EngineSide(tmp_path_factory.mktemp("store"))
    yield side
    side.close()


@settings(max_examples=examples(30), suppress_health_check=HEALTH, deadline=None)
@given(world=worlds(), data=st.data())
def test_every_step_agrees_with_the_groups(engine: EngineSide, world: World, data: st.DataObject) -> None:
    """Fed in two halves, and asked in between: what is kept of the first half must not be used for the
    second.
    """
    plan = Trees(world).plan()
    middle = data.draw(st.integers(0, len(world.operations)), label="operations before the first question")
    for until in (middle, len(world.operations)):
        engine.feed(world, until=until)
        if data.draw(st.booleans(), label="checkpoint"):
            engine.backend.checkpoint()
        _compare(engine, world, plan)
        _compare(engine, world, plan)


def _compare(engine: EngineSide, world: World, plan: Plan) -> None:
    with engine.backend._read(None, world.account) as (account, read):
        if account is None:
            return
        bound = BoundPlan(plan, account, 0, read.pause)
        counts = account.directory.counts
        ordinals = Ordinals(counts)
        indexes = range(len(plan.steps))
        runs = [GroupRun(bound, group, None, read) for group in range(account.groups)]
        expected = [
            ordinals.joined((group, run.step(index, None)) for group, run in enumerate(runs))
            for index in indexes
        ]
        whole = WholeRun(bound, ordinals, None, read)
        assert [whole.step(index, None) for index in indexes] == expected
        everyone = ordinals.joined((group, BitMap(range(count))) for group, count in enumerate(counts))
        for some in (BitMap(list(everyone)[::2]), BitMap(list(everyone)[:1])):
            among = WholeRun(bound, ordinals, some, read)
            assert [among.users(index) for index in indexes] == [users & some for users in expected]
    sizes = engine.backend.execute(plan, Count()).sizes
    assert list(sizes) == [len(expected[root]) for root in plan.roots]
    event(f"{min(len(everyone), 5)} users")


@given(
    counts=st.lists(st.sampled_from((0, 1, 5, 4_096, 4_097, 70_000)), min_size=1, max_size=5),
    data=st.data(),
)
def test_ordinals_keep_groups_apart(counts: list[int], data: st.DataObject) -> None:
    ordinals = Ordinals(counts)
    assert ordinals.hold(counts)
    assert ordinals.size <= 2 * max(4_096, max(counts)) * len(counts)
    sets = {
        group: BitMap(data.draw(st.sets(st.integers(0, count - 1), min_size=1), label=f"of group {group}"))
        for group, count in enumerate(counts)
        if count
    }
    joined = ordinals.joined(sets.items())
    assert dict(ordinals.by_group(joined)) == sets
    assert joined == BitMap(group * ordinals.stride + each for group, some in sets.items() for each in some)
