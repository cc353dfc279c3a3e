"""Random worlds through the whole engine: whatever is asked, and however it was kept, the oracle agrees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from engine.audiences.model import MembershipStatus, SavedTarget
from engine.backend import Members
from engine.engine import Engine
from engine.journeys.forest import with_audiences_renamed
from engine.journeys.model import (
    Account,
    Connection,
    File,
    Input,
    Journey,
    Milestone,
    MilestoneKind,
    Output,
    Workspace,
)
from engine.local.backend import LocalBackend
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR
from tests.engine.site import Clock
from tests.oracle import world as drawn
from tests.oracle.evaluate import Oracle
from tests.oracle.strategies import worlds

STEPS = (0, 7, MICROS_PER_HOUR, 3 * MICROS_PER_DAY)
"""How far the clock moves between two operations."""

# A failing world is printed as it is: making it smaller would take longer than reading it.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)


class Running:
    """An engine with many worlds in it, each in an account of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = Clock()
        self.engine = Engine(LocalBackend.open(directory), clock=self.clock)

    def restart(self) -> None:
        """Closes the store and opens it again."""
        self.engine.close()
        self.engine = Engine(LocalBackend.open(self.directory), clock=self.clock)

    def build(self, world: drawn.World) -> dict[str, Milestone]:
        """Creates everything a world has but its data; its milestones by id."""
        engine, account = self.engine, world.account
        engine.accounts.create_account(
            account.rpartition("/")[2],
            Account(name="", time_zone=world.time_zone, event_retention=world.event_retention),
        )
        for name in sorted({drawn.workspace_of(input_name) for input_name in world.inputs}):
            engine.accounts.create_workspace(account, name.rpartition("/")[2], Workspace(name=""))
        for name in world.inputs:
            engine.accounts.create_input(drawn.workspace_of(name), name.rpartition("/")[2], Input(name=""))
        engine.connections.create_output(account, "out", Output(name="", target=File("out")))
        built: dict[str, Milestone] = {}
        for journey in world.journeys:
            record = Journey(name="", inputs=journey.inputs)
            self.split(
                world,
                engine.journeys.create_journey(account, journey.id, record),
                "",
                journey.milestones,
                built,
            )
        return built

    def split(
        self,
        world: drawn.World,
        journey: Journey,
        parent: str,
        milestones: tuple[drawn.Milestone, ...],
        built: dict[str, Milestone],
    ) -> None:
        """Creates a split and all below it."""
        for milestone in milestones:
            names = {world.audience_name(known): record.audience for known, record in built.items()}
            criteria = milestone.criteria
            record = Milestone(
                name="",
                audience="",
                parent=parent,
                kind=MilestoneKind.REMAINING_USERS if criteria is None else MilestoneKind.CRITERIA,
                criteria=None if criteria is None else with_audiences_renamed(criteria, names),
            )
            created = self.engine.milestones.create_milestone(journey.name, milestone.id, record).record
            built[milestone.id] = created
            self.split(world, journey, created.name, milestone.children, built)

    def apply(self, account: str, operation: drawn.Operation) -> None:
        """One thing that happens. Straight to the store: worlds reach back and ahead further than the door
        lets in.
        """
        match operation:
            case drawn.Batch():
                self.engine.backend.append(account, operation.records, request_id=operation.request_id)
            case drawn.Alias():
                self.engine.backend.alias(account, operation.from_user_id, operation.to_user_id)
            case drawn.Erase():
                self.engine.backend.erase(account, operation.user_ids)
            case drawn.Expire():
                self.engine.backend.remove_events(account, operation.before)

    def switch(self, milestone: Milestone) -> None:
        """Activates a milestone's audience, or switches it off."""
        connections, account = self.engine.connections, milestone.name.partition("/journeys/")[0]
        connection_id = milestone.name.rpartition("/")[2]
        known = connections.list_connections(account, audience=milestone.audience).items
        if not known:
            record = Connection(name="", audience=milestone.audience, output=f"{account}/outputs/out")
            connections.activate(connections.create_connection(account, connection_id, record).name)
        elif self.engine.audiences.activated(milestone.audience):
            connections.deactivate(known[0].name)
        else:
            connections.activate(known[0].name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("store"))
    yield running
    running.engine.close()


@pytest.mark.oracle
@given(world=worlds(), data=st.data())
@settings(max_examples=25, phases=PHASES, suppress_health_check=SLOW)
def test_whatever_is_asked_the_oracle_agrees(
    running: Running, world: drawn.World, data: st.DataObject
) -> None:
    running.clock.now = world.as_of - 20 * MICROS_PER_DAY
    built = running.build(world)
    milestones = list(built.values())
    # 1. Data, time, switches and restarts in any order, with a round now and then.
    for operation in world.operations:
        if data.draw(st.booleans()) and milestones:
            running.switch(milestones[data.draw(st.integers(0, len(milestones) - 1))])
        running.apply(world.account, operation)
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
    # 2. Before the last round the answers are right already: whoever is not in step is evaluated.
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
            assert replayed(running.engine, milestone.audience) == expected[milestone_id]


def check(
    running: Running,
    world: drawn.World,
    built: dict[str, Milestone],
    expected: dict[str, frozenset[str]],
    user_ids: list[str],
) -> None:
    """Every way of asking gives the oracle's answer."""
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
            user.user_id for user in answer.users if user.statuses[column] is MembershipStatus.MEMBER
        }
        for column, milestone_id in enumerate(built)
    }
    assert found == expected
    for user_id in user_ids[:2]:
        own = engine.members.user_audiences(world.account, user_id, page_size=1_000).audiences
        assert {audience.name for audience in own} == {
            built[milestone_id].audience for milestone_id in built if user_id in expected[milestone_id]
        }


def replayed(engine: Engine, audience: str) -> frozenset[str]:
    """The members that an audience's change log leads to."""
    members: set[str] = set()
    for change in engine.backend.changes(audience, 0, 10_000).changes:
        assert change.entered is not (change.user_id in members)
        (members.add if change.entered else members.remove)(change.user_id)
    return frozenset(members)
