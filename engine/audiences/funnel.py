"""Funnels: every milestone of a journey with its share of its parent's users, in one plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from engine.audiences.model import Funnel, FunnelStep, PreviewMilestone
from engine.audiences.targets import refuse_remaining, with_universe_root
from engine.backends.base import Count, PlanExecutor
from engine.criteria.model import Criterion
from engine.criteria.warnings import siblings_take_everyone
from engine.errors import InvalidInput, Violation, Violations, Warning
from engine.limits import JOURNEY_MILESTONES_MAX
from engine.plan.compile import compile_journey
from engine.plan.tree import JourneyTree, TreeMilestone
from engine.resources.activation import Activation
from engine.resources.criteria import CriteriaCheck, Prepared
from engine.resources.milestone_tree import Forest, in_tree_order
from engine.resources.names import Resource, check_name
from engine.resources.records import Account, Input, Journey, Milestone, MilestoneKind, account_of
from engine.resources.repository import Repository
from engine.values import Micros


class Funnels:
    """Counts funnels of saved journeys and of previews. `elapsed` is left to the caller."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        activation: Activation,
        criteria: CriteriaCheck,
        backend: PlanExecutor,
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._activation = activation
        self._criteria = criteria
        self._backend = backend

    def of_journey(self, name: str, as_of: Micros, at_least: int, deadline: float | None) -> Funnel:
        """The funnel of a saved journey. Raises NotFound."""
        check_name(name, "name", Resource.JOURNEY)
        with self._repository.reading():
            journey = self._repository.get(Journey, name)
            milestones = [milestone for _, milestone in in_tree_order(self._forest.milestones(name))]
            tree = self._forest.tree(name)
            activated = self._activation.activated(account_of(name))
        users, population, revision = self._counted(
            tree, [milestone.name for milestone in milestones], as_of, at_least, deadline
        )
        previews = [_as_preview(milestone) for milestone in milestones]
        audiences = [milestone.audience for milestone in milestones]
        return Funnel(
            journey=journey,
            population=population,
            steps=tuple(
                _step(preview, audience, audience in activated, previews, users, population)
                for preview, audience in zip(previews, audiences, strict=True)
            ),
            as_of=as_of,
            revision=revision,
            elapsed=0,
        )

    def of_preview(
        self,
        account: str,
        inputs: Sequence[str],
        milestones: Sequence[PreviewMilestone],
        as_of: Micros,
        at_least: int,
        deadline: float | None,
    ) -> Funnel:
        """The funnel of an unsaved journey. Raises NotFound, InvalidInput, FailedPrecondition,
        DeadlineExceeded.
        """
        check_name(account, "parent", Resource.ACCOUNT)
        self._repository.get(Account, account)
        faults = [*self._input_faults(account, inputs), *_shape_faults(milestones)]
        if faults:
            raise InvalidInput(faults)
        prepared = self._criteria.prepared((each.criteria for each in milestones), "milestones", deadline)
        tree, warnings = self._preview_tree(account, inputs, milestones, prepared)
        users, population, revision = self._counted(
            tree, [milestone.id for milestone in milestones], as_of, at_least, deadline
        )
        return Funnel(
            journey=None,
            population=population,
            steps=tuple(_step(each, "", False, milestones, users, population) for each in milestones),
            as_of=as_of,
            revision=revision,
            elapsed=0,
            warnings=(*warnings, *_split_warnings(tree, users, population)),
        )

    def _counted(
        self, tree: JourneyTree, ids: Sequence[str], as_of: Micros, at_least: int, deadline: float | None
    ) -> tuple[dict[str, int], int, int]:
        """Users by milestone id, the population, the revision."""
        account = account_of(tree.name)
        resolver = self._forest.resolver(account)
        compiled = compile_journey(self._forest.account(account), tree, as_of, resolver, milestones=ids)
        plan = with_universe_root(compiled.plan, tree.inputs)
        counts = self._backend.execute(plan, Count(), min_revision=at_least, deadline=deadline)
        *sizes, population = counts.sizes
        return dict(zip(compiled.milestones, sizes, strict=True)), population, counts.revision

    def _input_faults(self, account: str, inputs: Sequence[str]) -> Iterator[Violation]:
        for index, name in enumerate(inputs):
            if account_of(name) != account or self._repository.find(Input, name) is None:
                yield Violation(f"inputs[{index}]", f"input {name!r} does not exist")

    def _preview_tree(
        self,
        account: str,
        inputs: Sequence[str],
        milestones: Sequence[PreviewMilestone],
        prepared: Prepared,
    ) -> tuple[JourneyTree, tuple[Warning, ...]]:
        tree = JourneyTree(
            # No saved journey has an empty id.
            name=f"{account}/journeys/",
            inputs=tuple(sorted(set(inputs) or self._forest.all_inputs(account))),
            milestones=tuple(_tree_milestones(milestones)),
        )
        faults = Violations()
        criteria: dict[str, Criterion] = {}
        for index, located in enumerate(tree.milestones):
            if located.kind is MilestoneKind.REMAINING_USERS:
                others = [m for m in tree.children(located.parent) if m.id != located.id]
                refuse_remaining(others, [m for m in others if m.kind is MilestoneKind.REMAINING_USERS])
            if located.criterion is not None:
                path = f"milestones[{index}].criteria"
                criteria[path] = located.criterion
                faults.extend(self._criteria.faults(tree, located, located.criterion, path, prepared))
        if faults:
            raise InvalidInput(faults, reason="INVALID_CRITERIA")
        return tree, self._criteria.warnings(tree).of_all(criteria)


def _split_warnings(tree: JourneyTree, users: dict[str, int], population: int) -> Iterator[Warning]:
    """A warning for each milestone whose earlier siblings take all users of its parent."""
    for index, milestone in enumerate(tree.milestones):
        if milestone.criterion is None:
            continue
        before = [sibling.id for sibling in tree.before(milestone)]
        above = population if milestone.parent is None else users[milestone.parent]
        if above and sum(users[sibling] for sibling in before) == above:
            yield siblings_take_everyone(f"milestones[{index}].criteria", before)


def _as_preview(milestone: Milestone) -> PreviewMilestone:
    return PreviewMilestone(
        id=milestone.name,
        parent=milestone.parent,
        display_name=milestone.display_name,
        kind=milestone.kind,
        criteria=milestone.criteria,
    )


def _tree_milestones(milestones: Iterable[PreviewMilestone]) -> Iterator[TreeMilestone]:
    for position, milestone in enumerate(milestones):
        yield TreeMilestone(
            id=milestone.id,
            parent=milestone.parent or None,
            position=position,
            kind=milestone.kind,
            criterion=milestone.criteria,
        )


def _shape_faults(milestones: Sequence[PreviewMilestone]) -> Iterator[Violation]:
    """Checks that ids are unique, parents come before children, and criteria are exactly where required."""
    if len(milestones) > JOURNEY_MILESTONES_MAX:
        yield Violation("milestones", f"at most {JOURNEY_MILESTONES_MAX} are allowed")
        return
    known = {""}
    for index, milestone in enumerate(milestones):
        path = f"milestones[{index}]"
        if not milestone.id:
            yield Violation(f"{path}.id", "is required")
        elif milestone.id in known:
            yield Violation(f"{path}.id", f"{milestone.id!r} is used twice")
        if milestone.parent not in known:
            yield Violation(
                f"{path}.parent", f"expected the id of an earlier milestone, got {milestone.parent!r}"
            )
        known.add(milestone.id)
        has_criteria = milestone.criteria is not None
        if has_criteria is not (milestone.kind is MilestoneKind.CRITERIA):
            problem = "must be absent for" if has_criteria else "is required for"
            yield Violation(f"{path}.criteria", f"{problem} a {milestone.kind.name} milestone")


def _step(
    milestone: PreviewMilestone,
    audience: str,
    activated: bool,
    milestones: Sequence[PreviewMilestone],
    users: dict[str, int],
    population: int,
) -> FunnelStep:
    own = users[milestone.id]
    above = users[milestone.parent] if milestone.parent else population
    split = sum(users[each.id] for each in milestones if each.parent == milestone.parent)
    return FunnelStep(
        milestone=milestone.id,
        display_name=milestone.display_name,
        parent=milestone.parent,
        kind=milestone.kind,
        audience=audience,
        users=own,
        parent_share=own / above if above else 0.0,
        split_share=own / split if split else 0.0,
        activated=activated,
    )
