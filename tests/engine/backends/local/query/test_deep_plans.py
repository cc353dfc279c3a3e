"""Plans deeper than the interpreter's stack are answered, and landings change no answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from engine.audiences.model import SavedTarget
from engine.backends.base import Contains, Count
from engine.backends.local.query import bound_plan
from engine.backends.local.query.bound_plan import LANDING_STEPS, BoundPlan
from engine.limits import JOURNEY_MILESTONES_MAX
from engine.plan.template import audiences_template
from engine.resources.documents import JourneyDocument, MilestoneDocument
from tests.engine.site import ACCOUNT, JOURNEY, Site, did
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


@settings(max_examples=examples(15), suppress_health_check=HEALTH, deadline=None)
@given(world=worlds(), landing_steps=st.integers(1, 4))
def test_landings_change_no_answer(engine: EngineSide, world: World, landing_steps: int) -> None:
    engine.feed(world)
    trees = Trees(world)
    plan = trees.plan()
    template = audiences_template(trees.account, trees.audiences(), trees.resolve).at(world.as_of)
    backend, landings = engine.backend, 0
    expected = [(each, [len(users) for users in engine.members(each)]) for each in (plan, template)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound_plan, "LANDING_STEPS", landing_steps)
        backend._executor._bound.clear()
        backend._executor._templates.clear()
        for each, sizes in expected:
            assert list(backend.execute(each, Count()).sizes) == sizes
        users = sorted(set().union(*engine.members(plan)))
        together = backend.execute(template, Contains((*users, "unknown"))).flags
        with backend._read(None, world.account) as (account, read):
            if account is not None:
                # Bound with landings, for the questions about one user.
                backend._executor.bind_template(template, account, read)
                landings = len(BoundPlan(plan, account, 0, read.pause).landings)
                for user_id, flags in zip(users, together, strict=False):
                    alone = backend._executor.contains_one(template, account, user_id)
                    assert alone in (None, flags)
        backend._executor._bound.clear()
        backend._executor._templates.clear()
    event(f"{min(landings, 5)} landings")


def test_a_split_of_as_many_milestones_as_allowed(tmp_path: Path) -> None:
    """Each milestone draws what those before it leave: a plan of twice as many calls as the stack allows."""
    assert JOURNEY_MILESTONES_MAX * 2 > sys.getrecursionlimit() > LANDING_STEPS * 4
    site = Site(tmp_path / "store")
    wide = tuple(
        MilestoneDocument(id=f"m{number}", criteria=did(f"e{number}"))
        for number in range(JOURNEY_MILESTONES_MAX - 1)
    )
    rest = MilestoneDocument(id="rest", remaining_users=True)
    site.engine.applying.apply(ACCOUNT, JourneyDocument(journey="main", milestones=(*wide, rest)))
    last = site.engine.milestones.get_milestone(f"{JOURNEY}/milestones/rest")
    site.send([("first", "e0"), ("last", f"e{JOURNEY_MILESTONES_MAX - 2}"), ("none", "x"), ("other", "x")])
    assert site.engine.sizes.count(last.name).users == 2
    assert site.engine.sizes.estimate(SavedTarget(last.name)).size.users == 2
    for _ in range(2):
        assert [site.engine.members.check(last.name, user).member for user in ("last", "none")] == [
            False,
            True,
        ]
    assert site.engine.members.explain_membership(last.name, "none").member
    site.connect(last)
    site.engine.live.refresh_all()
    assert site.stored(last) == site.members(last) == {"none", "other"}
    site.send([("new", "x"), ("other", "e5")])
    site.engine.live.refresh_all()
    assert site.stored(last) == site.members(last) == {"none", "new"}
    site.engine.close()
