"""Checks criteria against the account: faults by its inputs and audiences, warnings by its data."""

from __future__ import annotations

from collections.abc import Collection

from engine.backends.base import LookupReader
from engine.criteria.model import Audience as AudienceCriterion
from engine.criteria.model import Criterion
from engine.criteria.validation import AudienceReference, Context, validate
from engine.errors import InvalidInput, NotFound, Violation
from engine.limits import AUDIENCE_LEVELS_MAX, Limits
from engine.plan.tree import AudienceCycle, JourneyTree, TreeMilestone, audiences_in, levels_of
from engine.resources.data_warnings import DataWarnings
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of


class CriteriaCheck:
    """Checks the criteria of milestones, saved or not."""

    def __init__(self, forest: Forest, backend: LookupReader, limits: Limits) -> None:
        self._forest = forest
        self._backend = backend
        self._limits = limits

    def faults(
        self,
        tree: JourneyTree,
        milestone: TreeMilestone,
        criterion: Criterion,
        root: str,
        *,
        deleted: Collection[str] = (),
    ) -> tuple[Violation, ...]:
        """The faults of `criterion` as the criterion of `milestone` in `tree`. Paths start at `root`.

        `deleted` are audiences that the same write deletes.
        """
        context = Context(
            inputs=frozenset(self._forest.all_inputs(account_of(tree.name))),
            journey_inputs=frozenset(tree.inputs),
            audience=lambda name: (
                AudienceReference.DELETED if name in deleted else self._reference(tree, milestone, name)
            ),
            milestone_audience=lambda name: self._forest.audience_of(account_of(tree.name), name),
            root=root,
            limits=self._limits,
        )
        return validate(criterion, context)

    def require(self, tree: JourneyTree, milestone: TreeMilestone, criterion: Criterion, root: str) -> None:
        """Raises InvalidInput with every fault."""
        faults = self.faults(tree, milestone, criterion, root)
        if faults:
            raise InvalidInput(faults, reason="INVALID_CRITERIA")

    def warnings(self, tree: JourneyTree) -> DataWarnings:
        """Warnings about valid criteria of the journey. They look at data, so ask without holding a lock."""
        account = account_of(tree.name)
        resolve = self._forest.resolver(account, {tree.name: tree})

        def inputs_of(audience: str) -> tuple[str, ...]:
            try:
                return resolve(audience)[0].inputs
            except NotFound:
                # Deleted since the criteria were checked.
                return ()

        all_inputs = self._forest.all_inputs(account)
        return DataWarnings(self._backend, account, tree.inputs, all_inputs, inputs_of)

    def _reference(self, tree: JourneyTree, milestone: TreeMilestone, name: str) -> AudienceReference:
        """The dependencies that naming the audience would add to `milestone`."""
        alone = tree.with_draft(
            TreeMilestone(
                id=milestone.id,
                parent=milestone.parent,
                position=milestone.position,
                criterion=AudienceCriterion(name=name),
            )
        )
        resolver = self._forest.resolver(account_of(tree.name), {tree.name: alone})
        try:
            levels = levels_of([(alone, alone.milestone(milestone.id))], resolver)
        except NotFound:
            return AudienceReference.UNKNOWN
        except AudienceCycle:
            return AudienceReference.CYCLE
        named, milestone_id = resolver(name)
        is_deepest = levels[named.name, milestone_id] >= AUDIENCE_LEVELS_MAX
        if is_deepest and not self._names_already(tree.name, milestone.id, name):
            return AudienceReference.TOO_DEEP
        return AudienceReference.FOUND

    def _names_already(self, journey: str, milestone_id: str, audience: str) -> bool:
        """Whether the milestone is saved with criteria that name the audience, as before there was a limit on
        levels: it may keep them.
        """
        try:
            saved = self._forest.tree(journey)
        except NotFound:
            return False
        return any(m.id == milestone_id and audience in audiences_in(m.criterion) for m in saved.milestones)
