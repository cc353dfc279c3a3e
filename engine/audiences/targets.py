"""What a question is about: saved milestones and drafts, as trees that plans are compiled from."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from engine.audiences.model import Draft, SavedTarget, Target
from engine.criteria.faults import CRITERIA_PATH
from engine.errors import FailedPrecondition, InvalidInput, Warning
from engine.plan.canonical import canonical_digest
from engine.plan.compile import CompiledMilestone, compile_milestone
from engine.plan.model import Plan, Universe, encode_step
from engine.plan.tree import Account, AudienceResolver, JourneyTree, MilestoneKind, TreeMilestone
from engine.resources.audiences import AudienceRecords
from engine.resources.criteria import CriteriaCheck
from engine.resources.milestone_tree import Forest, tree_milestone
from engine.resources.names import Resource, check_name
from engine.resources.records import Account as AccountRecord
from engine.resources.records import Audience, Input, Journey, Milestone, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

NAMING_INSTANT: Micros = 1_577_836_800 * MICROS_PER_SECOND
"""2020-01-01T00:00:00Z: where questions are compiled that are to have the same name at any instant."""

NAMES_KEPT_MAX = 1_024

DRAFT_FIELD = "draft"
_DRAFT_ID = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A milestone in its tree. `id` is its resource name, or another string for a draft. `warnings` are those
    of a draft, which is checked when it is located; None for a saved milestone.
    """

    account: Account
    tree: JourneyTree
    id: str
    resolver: AudienceResolver
    warnings: tuple[Warning, ...] | None = None

    def compile(self, as_of: Micros, *, with_labels: bool = True) -> CompiledMilestone:
        """The milestone's plan; the last root is the journey's users."""
        compiled = compile_milestone(
            self.account, self.tree, self.id, as_of, self.resolver, with_labels=with_labels
        )
        return msgspec.structs.replace(compiled, plan=with_universe_root(compiled.plan, self.tree.inputs))


def with_universe_root(plan: Plan, inputs: tuple[str, ...]) -> Plan:
    """The plan with one more root: the users of the inputs."""
    universe = Universe(inputs=tuple(sorted(inputs)))
    wanted = encode_step(universe)
    for index, step in enumerate(plan.steps):
        if isinstance(step, Universe) and encode_step(step) == wanted:
            return msgspec.structs.replace(plan, roots=(*plan.roots, index))
    return msgspec.structs.replace(plan, steps=(*plan.steps, universe), roots=(*plan.roots, len(plan.steps)))


class Targets:
    """Finds what a question is about and refuses what cannot be."""

    def __init__(
        self, repository: Repository, forest: Forest, records: AudienceRecords, criteria: CriteriaCheck
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._records = records
        self._criteria = criteria
        self._names: dict[tuple[int, bytes], bytes] = {}

    def question_name(self, target: Target, located: Located) -> bytes:
        """A name for the question of how many a target has, whatever the instant and the order in which its
        criteria are written.
        """
        kinds = (AccountRecord, Input, Journey, Milestone, Audience)
        key = self._repository.generation(*kinds), msgspec.msgpack.encode(target)
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= NAMES_KEPT_MAX:
                self._names.clear()
            name = self._names[key] = canonical_digest(located.compile(NAMING_INSTANT).plan)
        return name

    def locate(self, target: Target) -> Located:
        """The milestone a target means. Raises NotFound, InvalidInput, FailedPrecondition."""
        return self.saved(target.name) if isinstance(target, SavedTarget) else self.draft(target)

    def saved(self, name: str, field: str = "name") -> Located:
        """A saved milestone, by its own name or its audience's. Raises NotFound, InvalidInput."""
        with self._repository.reading():
            milestone = self._records.of(name, field).milestone
            account = account_of(milestone)
            return Located(
                account=self._forest.account(account),
                tree=self._forest.tree(journey_of(milestone)),
                id=milestone,
                resolver=self._forest.resolver(account),
            )

    def warnings(self, located: Located) -> tuple[Warning, ...]:
        """What may be mistyped in the milestone's criteria."""
        if located.warnings is not None:
            return located.warnings
        milestone = located.tree.milestone(located.id)
        if milestone.criterion is None:
            return ()
        return self._criteria.check(located.tree, milestone, milestone.criterion, CRITERIA_PATH).warnings

    def draft(self, draft: Draft) -> Located:
        """A draft in the tree as it would be if it were saved. Raises NotFound, InvalidInput,
        FailedPrecondition.
        """
        check_name(draft.journey, f"{DRAFT_FIELD}.journey", Resource.JOURNEY)
        with self._repository.reading():
            self._repository.get(Journey, draft.journey)
            saved = self._forest.tree(draft.journey)
            milestone = self._replacing(draft) if draft.replaces else self._added(draft, saved)
            self._refuse_misfit(milestone)
            warnings: tuple[Warning, ...] = ()
            if milestone.criterion is not None:
                path = f"{DRAFT_FIELD}.criteria"
                warnings = self._criteria.require(saved, milestone, milestone.criterion, path)
            tree = saved.with_draft(milestone)
            account = account_of(draft.journey)
            return Located(
                account=self._forest.account(account),
                tree=tree,
                id=milestone.id,
                resolver=self._forest.resolver(account, {tree.name: tree}),
                warnings=warnings,
            )

    def _replacing(self, draft: Draft) -> TreeMilestone:
        field = f"{DRAFT_FIELD}.replaces"
        check_name(draft.replaces, field, Resource.MILESTONE)
        if journey_of(draft.replaces) != draft.journey:
            raise InvalidInput.one(field, f"is no milestone of {draft.journey}")
        saved = tree_milestone(self._repository.get(Milestone, draft.replaces))
        return msgspec.structs.replace(saved, criterion=draft.criteria)

    def _added(self, draft: Draft, tree: JourneyTree) -> TreeMilestone:
        field = f"{DRAFT_FIELD}.parent_milestone"
        parent = draft.parent or None
        if parent is not None:
            check_name(parent, field, Resource.MILESTONE)
            self._repository.get(Milestone, parent)
            if journey_of(parent) != draft.journey:
                raise FailedPrecondition(
                    f"{parent} is a milestone of another journey", reason="PARENT_IN_OTHER_JOURNEY"
                )
        kind = MilestoneKind(draft.kind.value)
        siblings = tree.children(parent)
        remaining = [m for m in siblings if m.kind is MilestoneKind.REMAINING_USERS]
        if kind is MilestoneKind.REMAINING_USERS:
            refuse_remaining(siblings, remaining)
        return TreeMilestone(
            id=_DRAFT_ID,
            parent=parent,
            position=len(siblings) - len(remaining),
            kind=kind,
            criterion=draft.criteria,
        )

    def _refuse_misfit(self, milestone: TreeMilestone) -> None:
        field = f"{DRAFT_FIELD}.criteria"
        if milestone.kind is MilestoneKind.CRITERIA and milestone.criterion is None:
            raise InvalidInput.one(field, "is required for a CRITERIA milestone")
        if milestone.kind is MilestoneKind.REMAINING_USERS and milestone.criterion is not None:
            raise InvalidInput.one(field, "must be absent for a REMAINING_USERS milestone")


def refuse_remaining(siblings: list[TreeMilestone], remaining: list[TreeMilestone]) -> None:
    """Raises FailedPrecondition when remaining users cannot join these siblings."""
    if remaining:
        raise FailedPrecondition(
            f"the split already has the remaining users {remaining[0].id}",
            reason="REMAINING_USERS_EXISTS",
            metadata={"milestone": remaining[0].id},
        )
    if not siblings:
        raise FailedPrecondition(
            "remaining users need a criteria sibling before them", reason="REMAINING_USERS_NEED_CRITERIA"
        )
