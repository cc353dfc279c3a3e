"""A world's journeys in the planner's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.criteria.model import Criterion
from engine.errors import NotFound
from engine.plan.compile import CompiledMilestone, compile_audiences, compile_criterion, compile_milestone
from engine.plan.explain import CompiledExplanation, compile_explanation
from engine.plan.model import Plan
from engine.plan.passes import ALL_PASSES, Pass
from engine.plan.tree import Account, JourneyTree, MilestoneKind, TreeMilestone
from engine.values import Micros
from tests.oracle.world import Journey, Milestone, World, walk


class Trees:
    """The journeys of a world as the planner's trees, and plans over them, each made once."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.account = Account(world.account, world.time_zone, world.event_retention)
        self.by_journey = {journey.id: _tree(world, journey) for journey in world.journeys}
        self.milestones = tuple(m.id for journey in world.journeys for m in walk(journey.milestones))

        self._plans: dict[tuple[Micros, tuple[Pass, ...]], Plan] = {}

    def resolve(self, audience: str) -> tuple[JourneyTree, str]:
        """The journey and the milestone id of an audience, for the planner."""
        for tree in self.by_journey.values():
            for milestone in tree.milestones:
                if self.world.audience_name(milestone.id) == audience:
                    return tree, milestone.id
        raise NotFound(audience)

    def audiences(self) -> list[str]:
        """The audience of every milestone, in the order of `milestones`."""
        return [self.world.audience_name(milestone_id) for milestone_id in self.milestones]

    def plan(self, as_of: Micros | None = None, passes: Sequence[Pass] = ALL_PASSES) -> Plan:
        """One plan with a root for each of `milestones`."""
        instant = self.world.as_of if as_of is None else as_of
        key = (instant, tuple(passes))
        if key not in self._plans:
            self._plans[key] = compile_audiences(
                self.account, self.audiences(), instant, self.resolve, passes=passes
            )
        return self._plans[key]

    def criterion_plan(self, journey_id: str, criterion: Criterion, as_of: Micros | None = None) -> Plan:
        """One root: a journey's users for which a criterion is true."""
        tree, instant = self.by_journey[journey_id], self.world.as_of if as_of is None else as_of
        return compile_criterion(self.account, tree, criterion, instant, self.resolve)

    def journey_of(self, milestone_id: str) -> Journey:
        """The journey that a milestone belongs to."""
        return next(j for j in self.world.journeys if milestone_id in {m.id for m in walk(j.milestones)})

    def journey_with(self, audience: str) -> Journey:
        """The journey that an audience belongs to."""
        return self.journey_of(self.resolve(audience)[1])

    def explanation(self, milestone_id: str, passes: Sequence[Pass]) -> CompiledExplanation:
        """The plan that explains whether a user is in a milestone."""
        tree, _ = self.resolve(self.world.audience_name(milestone_id))
        as_of = self.world.as_of
        return compile_explanation(self.account, tree, milestone_id, as_of, self.resolve, passes=passes)

    def milestone_plan(self, milestone_id: str) -> CompiledMilestone:
        """The plan of one milestone, of the users it draws from and of its labelled criteria."""
        tree, _ = self.resolve(self.world.audience_name(milestone_id))
        return compile_milestone(self.account, tree, milestone_id, self.world.as_of, self.resolve)


def _tree(world: World, journey: Journey) -> JourneyTree:
    return JourneyTree(
        name=f"{world.account}/journeys/{journey.id}",
        inputs=world.inputs_of(journey),
        milestones=tuple(_milestones(journey.milestones, None)),
    )


def _milestones(split: tuple[Milestone, ...], parent: str | None) -> Iterator[TreeMilestone]:
    for position, milestone in enumerate(split):
        remaining = milestone.criteria is None
        yield TreeMilestone(
            id=milestone.id,
            parent=parent,
            position=position,
            kind=MilestoneKind.REMAINING_USERS if remaining else MilestoneKind.CRITERIA,
            criterion=milestone.criteria,
        )
        yield from _milestones(milestone.children, milestone.id)
