"""Runs random worlds as accounts of an engine: journeys, connections and operations."""

from __future__ import annotations

from engine import Engine
from engine.resources.milestone_tree import with_audiences_renamed
from engine.resources.records import (
    Account,
    Connection,
    Input,
    Journey,
    Milestone,
    MilestoneKind,
    Output,
    Workspace,
)
from engine.resources.targets import File
from tests.conformance.as_columns import append_by_column
from tests.conformance.site import forget_if_empty
from tests.oracle import world as drawn


class Running:
    """An engine with many worlds, each in its own account."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def build(self, world: drawn.World) -> dict[str, Milestone]:
        """Creates everything in a world except its data. Returns its milestones by id."""
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

    def apply(self, account: str, operation: drawn.Operation, *, by_column: bool = False) -> None:
        """Performs one operation, directly on the store: worlds reach further back and ahead than validation
        allows. `by_column`: batches of one kind of record arrive as columns.
        """
        match operation:
            case drawn.Batch():
                sent = by_column and append_by_column(
                    self.engine.backend, account, operation.records, operation.request_id
                )
                if sent:
                    return
                self.engine.backend.append(account, operation.records, request_id=operation.request_id)
            case drawn.Alias():
                self.engine.backend.alias(account, operation.from_user_id, operation.to_user_id)
            case drawn.Erase():
                self.engine.backend.erase(account, operation.user_ids)
            case drawn.Expire():
                self.engine.backend.remove_events(account, operation.before)
            case drawn.Forget():
                forget_if_empty(self.engine.backend, account, operation.name)

    def switch(self, milestone: Milestone) -> None:
        """Activates a milestone's audience, or deactivates it."""
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
