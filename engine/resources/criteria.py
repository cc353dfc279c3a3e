"""Validates criteria against the account: its inputs, audiences and known names."""

from __future__ import annotations

from engine.backends.base import CatalogReader
from engine.criteria.model import Audience as AudienceCriterion
from engine.criteria.model import Criterion
from engine.criteria.validation import AudienceReference, Checked, Context, SeenNames, validate
from engine.errors import InvalidInput, NotFound, Warning
from engine.limits import Limits
from engine.plan.tree import AudienceCycle, JourneyTree, TreeMilestone, made_of
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of


class CriteriaCheck:
    """Validates the criteria of milestones, saved or not."""

    def __init__(self, forest: Forest, backend: CatalogReader, limits: Limits) -> None:
        self._forest = forest
        self._backend = backend
        self._limits = limits

    def check(self, tree: JourneyTree, milestone: TreeMilestone, criterion: Criterion, root: str) -> Checked:
        """The faults of `criterion` as that of `milestone` in `tree`. Paths start at `root`."""
        account = account_of(tree.name)
        seen = self._backend.seen_names(account)
        context = Context(
            inputs=frozenset(self._forest.all_inputs(account)),
            journey_inputs=frozenset(tree.inputs),
            audience=lambda name: self._reference(tree, milestone, name),
            seen=SeenNames(seen.events, seen.user_attributes, seen.event_attributes),
            root=root,
            limits=self._limits,
        )
        return validate(criterion, context)

    def require(
        self, tree: JourneyTree, milestone: TreeMilestone, criterion: Criterion, root: str
    ) -> tuple[Warning, ...]:
        """The warnings about a criterion without faults. Raises InvalidInput with every fault."""
        checked = self.check(tree, milestone, criterion, root)
        if checked.violations:
            raise InvalidInput(checked.violations, reason="INVALID_CRITERIA")
        return checked.warnings

    def _reference(self, tree: JourneyTree, milestone: TreeMilestone, name: str) -> AudienceReference:
        """What `milestone` would depend on by naming that audience alone."""
        alone = tree.with_draft(
            TreeMilestone(
                id=milestone.id,
                parent=milestone.parent,
                position=milestone.position,
                criterion=AudienceCriterion(name=name),
            )
        )
        try:
            made_of(alone, [milestone.id], self._forest.resolver(account_of(tree.name), {tree.name: alone}))
        except NotFound:
            return AudienceReference.UNKNOWN
        except AudienceCycle:
            return AudienceReference.CYCLE
        return AudienceReference.FOUND
