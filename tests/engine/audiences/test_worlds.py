"""Random worlds through the whole engine: every answer agrees with the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine import Engine
from engine.audiences.model import MembershipStatus, SavedTarget
from engine.backends.base import Members
from engine.backends.registry import open_backend
from engine.limits import Limits
from engine.resources.records import Milestone
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, MICROS_PER_SECOND
from tests.engine.audiences.running import Running
from tests.engine.site import Clock, statuses_of
from tests.oracle import world as drawn
from tests.oracle.evaluate import Oracle
from tests.oracle.strategies import worlds
from tests.short_forms import examples

STEPS = (0, 7, MICROS_PER_SECOND, 61 * MICROS_PER_SECOND, MICROS_PER_HOUR, 3 * MICROS_PER_DAY)
"""How far the clock moves between two operations."""

# A failing world is printed as it is: making it smaller would take longer than reading it.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

KEEPS_CHANGES = Limits(changes_days=3_650)
"""Clocks move by weeks, and change logs are replayed, from the start unless trimmed by a retention."""


class Clocked(Running):
    """An engine whose clock moves only when told, and that can be restarted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        super().__init__(self._opened())

    def restart(self) -> None:
        """Closes the store and opens it again."""
        self.engine.close()
        self.engine = self._opened()

    def _opened(self) -> Engine:
        return Engine(open_backend(f"local:{self.directory}"), limits=KEEPS_CHANGES, clock=self.clock)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocked]:
    running = Clocked(tmp_path_factory.mktemp("store"))
    yield running
    running.engine.close()


@pytest.mark.oracle
@given(world=worlds(), data=st.data())
@settings(max_examples=examples(10), phases=PHASES, suppress_health_check=SLOW)
def test_random_worlds_agree_with_the_oracle(
    running: Clocked, world: drawn.World, data: st.DataObject
) -> None:
    running.clock.now = world.as_of - 20 * MICROS_PER_DAY
    built = running.build(world)
    milestones = list(built.values())
    # 1. Data, time, switches and restarts in any order, with a round now and then.
    for operation in world.operations:
        if data.draw(st.booleans()) and milestones:
            running.switch(milestones[data.draw(st.integers(0, len(milestones) - 1))])
        running.apply(world.account, operation, by_column=data.draw(st.booleans()))
        running.clock.now = min(
            world.as_of, running.clock.now + STEPS[data.draw(st.integers(0, len(STEPS) - 1))]
        )
        if data.draw(st.booleans()):
            running.engine.live.refresh_all()
    if data.draw(st.integers(0, 9)) == 0:
        running.restart()
    running.clock.now = world.as_of
    expected = Oracle(world).all_members()
    user_ids = sorted({*Oracle(world).users, "nobody"})
    # 2. Before the last round the answers are right already: dirty users are evaluated.
    check(running, world, built, expected, user_ids)
    running.engine.live.refresh_all()
    check(running, world, built, expected, user_ids)
    # 3. What is stored is what it should be, and the change logs lead there.
    for milestone_id, milestone in built.items():
        assert running.engine.live.calculated(milestone.audience) is (
            running.engine.backend.membership(milestone.audience) is not None
        )
        if running.engine.live.calculated(milestone.audience):
            page = running.engine.backend.stored_members(milestone.audience, Members())
            assert set(page.user_ids) == expected[milestone_id]
            check_changes(running.engine, milestone.audience, expected[milestone_id])


def check(
    running: Clocked,
    world: drawn.World,
    built: dict[str, Milestone],
    expected: dict[str, frozenset[str]],
    user_ids: list[str],
) -> None:
    """Every call gives the oracle's answer."""
    engine = running.engine
    for milestone_id, milestone in built.items():
        members = expected[milestone_id]
        assert engine.sizes.count(milestone.name).users == len(members)
        assert engine.sizes.estimate(SavedTarget(milestone.name)).size.users == len(members)
        assert {u for page in engine.members.export(milestone.name) for u in page.user_ids} == members
    audiences = [milestone.audience for milestone in built.values()]
    answer = engine.members.batch_check(world.account, user_ids, audiences)
    found = {
        milestone_id: {
            user_id
            for user_id, statuses in statuses_of(answer)
            if statuses[column] is MembershipStatus.MEMBER
        }
        for column, milestone_id in enumerate(built)
    }
    assert found == expected
    for user_id in user_ids[:2]:
        single = {
            milestone_id: engine.members.check(milestone.audience, user_id).member
            for milestone_id, milestone in built.items()
        }
        assert single == {milestone_id: user_id in members for milestone_id, members in expected.items()}
        own = engine.members.user_audiences(world.account, user_id, page_size=1_000).audiences
        assert {audience.name for audience in own} == {
            built[milestone_id].audience for milestone_id in built if user_id in expected[milestone_id]
        }


def check_changes(engine: Engine, audience: str, members: frozenset[str]) -> None:
    """The change log leads to the members: all of them if the log is complete, otherwise those it names."""
    membership = engine.backend.membership(audience)
    assert membership is not None
    whole = membership.first_sequence == 1
    named: dict[str, bool] = {}
    for change in engine.backend.changes(audience, membership.first_sequence - 1, 10_000).changes:
        # No user enters or leaves twice in a row.
        assert change.entered is not named.get(change.user_id, not change.entered if not whole else False)
        named[change.user_id] = change.entered
    assert {user for user, entered in named.items() if entered} == members & (
        members if whole else named.keys()
    )
