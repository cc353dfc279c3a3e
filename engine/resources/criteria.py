"""Checks criteria against the account: faults by its inputs and audiences, warnings by its data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from engine.backends.base import LookupReader
from engine.criteria.faults import Finding
from engine.criteria.model import Audience as AudienceCriterion
from engine.criteria.model import Criterion
from engine.criteria.patterns import findings
from engine.criteria.validation import AudienceReference, Context, validate
from engine.deadline import check_deadline
from engine.errors import InvalidInput, NotFound, Violation
from engine.limits import AUDIENCE_LEVELS_MAX, Limits
from engine.plan.tree import AudienceCycle, JourneyTree, TreeMilestone, audiences_in, levels_of
from engine.resources.data_warnings import DataWarnings
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the check of criteria needs: the findings about their patterns, and the deadline of the call."""

    patterns: Mapping[object, Finding]
    deadline: float | None = None


SAVED = Prepared({})
"""Of criteria that are saved: their patterns were checked when they were written."""


class CriteriaCheck:
    """Checks the criteria of milestones, saved or not."""

    def __init__(self, forest: Forest, backend: LookupReader, limits: Limits) -> None:
        self._forest = forest
        self._backend = backend
        self._limits = limits

    def prepared(self, criteria: Iterable[Criterion | None], field: str, deadline: float | None) -> Prepared:
        """Compiles the patterns of new criteria. Call it without holding a lock: it takes long. Raises
        DeadlineExceeded, and InvalidInput, with the field, when they are too costly for one call.
        """
        new = [each for each in criteria if each is not None]
        return Prepared(findings(new, self._limits, deadline, field=field), deadline)

    def faults(
        self,
        tree: JourneyTree,
        milestone: TreeMilestone,
        criterion: Criterion,
        root: str,
        prepared: Prepared,
        *,
        deleted: Collection[str] = (),
    ) -> tuple[Violation, ...]:
        """The faults of `criterion` as the criterion of `milestone` in `tree`. Paths start at `root`.

        `deleted` are audiences that the same write deletes. Raises DeadlineExceeded.
        """
        check_deadline(prepared.deadline)

        references: dict[str, AudienceReference] = {}

        def reference(name: str) -> AudienceReference:
            if name not in references:
                check_deadline(prepared.deadline)
                references[name] = self._reference(tree, milestone, name)
            return references[name]

        context = Context(
            inputs=frozenset(self._forest.all_inputs(account_of(tree.name))),
            journey_inputs=frozenset(tree.inputs),
            audience=lambda name: AudienceReference.DELETED if name in deleted else reference(name),
            milestone_audience=lambda name: self._forest.audience_of(account_of(tree.name), name),
            root=root,
            limits=self._limits,
            patterns=prepared.patterns,
        )
        return validate(criterion, context)

    def require(
        self,
        tree: JourneyTree,
        milestone: TreeMilestone,
        criterion: Criterion,
        root: str,
        prepared: Prepared,
    ) -> None:
        """As `faults`, but raises InvalidInput with every fault."""
        faults = self.faults(tree, milestone, criterion, root, prepared)
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
