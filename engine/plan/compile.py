"""Compiles criteria and a journey's tree into one plan.

A milestone draws from its parent's users (or the journey's start) minus those that match an earlier sibling,
and keeps those that match its own criteria. REMAINING_USERS keeps all that it draws. An audience named in a
criterion means its milestone's set, drawn in its own journey.

Every function returns plans whose first root is the requested set, optimised unless `passes` says otherwise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from engine.criteria.faults import CRITERIA_PATH
from engine.criteria.model import Criterion
from engine.errors import FailedPrecondition, NotFound
from engine.limits import AUDIENCE_LEVELS_EVALUATED_MAX
from engine.plan.criteria import CompiledNode, CriterionCompiler, StepList, universe_of
from engine.plan.model import Difference, Plan
from engine.plan.passes import ALL_PASSES, Pass, optimise
from engine.plan.tree import (
    Account,
    AudienceResolver,
    JourneyTree,
    MilestoneKey,
    MilestoneKind,
    TreeMilestone,
    in_dependency_order,
    key_of,
    level_over,
)
from engine.values import Micros


class CompiledLabel(msgspec.Struct, frozen=True):
    """A labelled criterion: its path, its label, and the root that holds it among the users its milestone
    draws from.
    """

    path: str
    label: str
    root: int


class CompiledMilestone(msgspec.Struct, frozen=True):
    """Root 0 is the milestone, root 1 the users it draws from, the others its labelled criteria."""

    plan: Plan
    labels: tuple[CompiledLabel, ...]


class CompiledJourney(msgspec.Struct, frozen=True):
    """Root i is the milestone `milestones[i]` (ids)."""

    plan: Plan
    milestones: tuple[str, ...]


class CompiledIntersections(msgspec.Struct, frozen=True):
    """Root i holds the users in all of the audiences `subsets[i]`, indices into the requested audiences."""

    plan: Plan
    subsets: tuple[tuple[int, ...], ...]


class Planner:
    """Compiles any number of milestones into one list of steps, each milestone once."""

    def __init__(
        self,
        account: Account,
        as_of: Micros,
        resolver: AudienceResolver,
        steps: StepList | None = None,
    ) -> None:
        """`steps`: those of another planner, to compile two states of a journey into one plan."""
        self.account = account
        self.as_of = as_of
        self.steps = StepList(as_of) if steps is None else steps
        self._resolver = resolver
        self._universes: dict[str, int] = {}
        self._members: dict[MilestoneKey, int] = {}
        self._draws: dict[MilestoneKey, int] = {}
        self._criteria: dict[MilestoneKey, CompiledNode] = {}
        self._levels: dict[MilestoneKey, int] = {}

    def universe(self, journey: JourneyTree) -> int:
        """The step of the journey's users."""
        if journey.name not in self._universes:
            self._universes[journey.name] = self.steps.add(universe_of(journey.inputs))
        return self._universes[journey.name]

    def criterion(
        self, journey: JourneyTree, criterion: Criterion, path: str = CRITERIA_PATH
    ) -> CompiledNode:
        """Compiles the criterion for the journey. Audiences that it names are compiled first."""
        compiler = CriterionCompiler(
            steps=self.steps,
            account=self.account,
            inputs=universe_of(journey.inputs).inputs,
            universe=self.universe(journey),
            audience_step=self._audience,
        )
        return compiler.visit(criterion, path)

    def milestone(self, journey: JourneyTree, milestone_id: str) -> int:
        """The step of the milestone's users. Raises as `milestones` does."""
        return self.milestones(journey, [milestone_id])[0]

    def milestones(self, journey: JourneyTree, milestone_ids: Sequence[str]) -> list[int]:
        """The steps of the users of several milestones of one journey. Raises AudienceCycle, and
        FailedPrecondition when their criteria name audiences over more levels than are evaluated.
        """
        keys = [(journey.name, milestone_id) for milestone_id in milestone_ids]
        if not all(key in self._members for key in keys):
            # In dependency order, so that no chain of milestones and audiences is too long for the stack.
            starts = [(journey, journey.milestone(milestone_id)) for milestone_id in milestone_ids]
            for located, needed in in_dependency_order(starts, self._resolver):
                level = self._levels[key_of(located)] = level_over(needed, self._levels)
                if level > AUDIENCE_LEVELS_EVALUATED_MAX:
                    raise _too_deep(located[1].id)
                self._compile(*located)
        return [self._members[key] for key in keys]

    def draw(self, journey: JourneyTree, milestone_id: str) -> int:
        """The step of the users that the milestone draws from."""
        self.milestone(journey, milestone_id)
        return self._draws[journey.name, milestone_id]

    def criterion_of(self, journey: JourneyTree, milestone_id: str) -> CompiledNode | None:
        """The milestone's own criterion; None for REMAINING_USERS."""
        self.milestone(journey, milestone_id)
        return self._criteria.get((journey.name, milestone_id))

    def plan(self, roots: Sequence[int], passes: Sequence[Pass]) -> Plan:
        """The steps compiled so far, reduced to those the roots need."""
        raw = Plan(
            account=self.account.name, as_of=self.as_of, steps=tuple(self.steps.steps), roots=tuple(roots)
        )
        return optimise(raw, passes)

    def _audience(self, name: str) -> int:
        return self.milestone(*self._resolver(name))

    def _compile(self, journey: JourneyTree, milestone: TreeMilestone) -> None:
        key = (journey.name, milestone.id)
        if key in self._members:
            return
        draw = self._draw(journey, milestone)
        self._draws[key] = draw
        self._members[key] = draw
        if milestone.criterion is not None and milestone.kind is MilestoneKind.CRITERIA:
            self._criteria[key] = self.criterion(journey, milestone.criterion)
            self._members[key] = self.steps.intersection([draw, self._criteria[key].step])

    def _draw(self, journey: JourneyTree, milestone: TreeMilestone) -> int:
        """The previous sibling's draw minus its matches, so that a split computes each difference once."""
        sibling = journey.just_before(milestone)
        if sibling is None:
            if milestone.parent is None:
                return self.universe(journey)
            return self._members[journey.name, milestone.parent]
        previous = (journey.name, sibling.id)
        if previous not in self._criteria:
            # Without criteria it keeps everyone it draws.
            return self.steps.union([])
        return self.steps.add(
            Difference(minuend=self._draws[previous], subtrahend=self._criteria[previous].step)
        )


def labelled(node: CompiledNode) -> Iterator[CompiledNode]:
    """The nodes that carry a label, in reading order."""
    if node.criterion.label:
        yield node
    for child in node.children:
        yield from labelled(child)


def compile_milestone(
    account: Account,
    journey: JourneyTree,
    milestone_id: str,
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    with_labels: bool = True,
    passes: Sequence[Pass] = ALL_PASSES,
) -> CompiledMilestone:
    """The plan of one milestone: its users, those it draws from, and each labelled criterion alone among the
    latter. For an unsaved milestone, `journey` is the tree that `with_draft` returns.
    """
    planner = Planner(account, as_of, resolver)
    draw = planner.draw(journey, milestone_id)
    criterion = planner.criterion_of(journey, milestone_id)
    nodes = list(labelled(criterion)) if criterion is not None and with_labels else []
    roots = [planner.milestone(journey, milestone_id), draw]
    roots += [planner.steps.intersection([draw, node.step]) for node in nodes]
    labels = tuple(
        CompiledLabel(node.path, node.criterion.label, root) for root, node in enumerate(nodes, start=2)
    )
    return CompiledMilestone(planner.plan(roots, passes), labels)


def _too_deep(milestone_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the criteria of {milestone_id} name audiences over more than {AUDIENCE_LEVELS_EVALUATED_MAX} "
        "levels, the most that are evaluated; repeat the criteria of one of them instead of naming it",
        reason="AUDIENCE_TOO_DEEP",
        metadata={"milestone": milestone_id, "limit": str(AUDIENCE_LEVELS_EVALUATED_MAX)},
    )


def compile_journey(
    account: Account,
    journey: JourneyTree,
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    milestones: Sequence[str] | None = None,
    passes: Sequence[Pass] = ALL_PASSES,
) -> CompiledJourney:
    """One plan with a root for each of the milestones (ids; None = all of them, in the journey's order)."""
    planner = Planner(account, as_of, resolver)
    ids = [milestone.id for milestone in journey.milestones] if milestones is None else milestones
    return CompiledJourney(planner.plan(planner.milestones(journey, ids), passes), tuple(ids))


def compile_audiences(
    account: Account,
    audiences: Sequence[str],
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    passes: Sequence[Pass] = ALL_PASSES,
) -> Plan:
    """One plan with a root for each of the audiences (resource names), of any journeys."""
    planner = Planner(account, as_of, resolver)
    return planner.plan([planner.milestone(*resolver(name)) for name in audiences], passes)


def compile_intersections(
    account: Account,
    audiences: Sequence[str],
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    passes: Sequence[Pass] = ALL_PASSES,
) -> CompiledIntersections:
    """One plan with a root for the users common to each non-empty subset of the audiences, singles first."""
    planner = Planner(account, as_of, resolver)
    members = [planner.milestone(*resolver(name)) for name in audiences]
    subsets = tuple(
        subset
        for size in range(1, len(members) + 1)
        for subset in itertools.combinations(range(len(members)), size)
    )
    roots = [planner.steps.intersection([members[index] for index in subset]) for subset in subsets]
    return CompiledIntersections(planner.plan(roots, passes), subsets)


def compile_edit(
    account: Account,
    audiences: Sequence[str],
    as_of: Micros,
    before: AudienceResolver,
    after: AudienceResolver,
    *,
    passes: Sequence[Pass] = ALL_PASSES,
) -> Plan:
    """One plan with four roots for each of the audiences (resource names): its users before an edit and after
    it, those who enter and those who leave. `after` raises NotFound for an audience that the edit deletes.
    """
    old = Planner(account, as_of, before)
    new = Planner(account, as_of, after, old.steps)
    roots: list[int] = []
    for name in audiences:
        was = old.milestone(*before(name))
        try:
            located = after(name)
        except NotFound:
            becomes = old.steps.union([])
        else:
            becomes = new.milestone(*located)
        entering = old.steps.add(Difference(minuend=becomes, subtrahend=was))
        leaving = old.steps.add(Difference(minuend=was, subtrahend=becomes))
        roots += [was, becomes, entering, leaving]
    return old.plan(roots, passes)


def compile_criterion(
    account: Account,
    journey: JourneyTree,
    criterion: Criterion,
    as_of: Micros,
    resolver: AudienceResolver,
    *,
    passes: Sequence[Pass] = ALL_PASSES,
) -> Plan:
    """One root: the journey's users for which the criterion is true."""
    planner = Planner(account, as_of, resolver)
    step = planner.criterion(journey, criterion).step
    return planner.plan([planner.steps.intersection([planner.universe(journey), step])], passes)
