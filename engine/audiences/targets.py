"""Targets of questions: saved milestones and drafts, as trees that plans are compiled from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from engine.audiences.model import Draft, SavedTarget, Target
from engine.bounded_cache import BoundedCache
from engine.criteria.faults import CRITERIA_PATH
from engine.errors import FailedPrecondition, InvalidInput, NotFound, Warning
from engine.plan.canonical import canonical_digest
from engine.plan.compile import CompiledMilestone, compile_milestone
from engine.plan.model import Plan, Universe, encode_step
from engine.plan.tree import Account, AudienceResolver, JourneyTree, MilestoneKind, TreeMilestone
from engine.resources.audiences import AudienceRecords
from engine.resources.criteria import CriteriaCheck, Prepared
from engine.resources.milestone_tree import Forest, tree_milestone
from engine.resources.names import Resource, check_name
from engine.resources.planning import planned
from engine.resources.records import Account as AccountRecord
from engine.resources.records import Audience, Input, Journey, Milestone, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import MICROS_PER_SECOND, Micros

NAMING_INSTANT: Micros = 1_577_836_800 * MICROS_PER_SECOND
"""2020-01-01T00:00:00Z: the instant used to compile questions whose names must not depend on time."""

NAME_CACHE_BYTES_MAX = 1 << 20
"""Names of questions that are kept, in bytes of memory."""
NAME_BYTES = 400
"""Memory of a name and the digest it is found by."""

DRAFT_FIELD = "draft"
DRAFT_CRITERIA = f"{DRAFT_FIELD}.criteria"
_DRAFT_ID = "draft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A milestone in its tree. `id` is its resource name, or any other string for a draft."""

    account: Account
    tree: JourneyTree
    id: str
    resolver: AudienceResolver
    criteria_field: str = CRITERIA_PATH
    """The field of the request, or of the milestone, that holds the criteria."""

    @property
    def milestone(self) -> TreeMilestone:
        """The milestone itself."""
        return self.tree.milestone(self.id)

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
    """Locates targets and rejects invalid ones."""

    def __init__(
        self, repository: Repository, forest: Forest, records: AudienceRecords, criteria: CriteriaCheck
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._records = records
        self._criteria = criteria
        self._names: BoundedCache[tuple[int, bytes], bytes] = BoundedCache("names", NAME_CACHE_BYTES_MAX)

    def question_name(self, target: Target, located: Located) -> bytes:
        """A name for the question of a target's size, independent of the instant and of the order of its
        criteria.
        """
        kinds = (AccountRecord, Input, Journey, Milestone, Audience)
        encoded = msgspec.msgpack.encode(target)
        key = self._repository.generation(*kinds), hashlib.sha256(encoded).digest()
        name = self._names.get(key)
        if name is None:
            name = canonical_digest(located.compile(NAMING_INSTANT).plan)
            self._names.put(key, name, NAME_BYTES)
        return name

    def locate(self, target: Target, deadline: float | None = None) -> Located:
        """The milestone a target means. Raises NotFound, InvalidInput, FailedPrecondition,
        DeadlineExceeded.
        """
        return self.saved(target.name) if isinstance(target, SavedTarget) else self.draft(target, deadline)

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
        """Possible mistakes in the milestone's criteria."""
        criterion = located.milestone.criterion
        if criterion is None:
            return ()
        return self._criteria.warnings(located.tree).of(criterion, located.criteria_field)

    def draft(self, draft: Draft, deadline: float | None = None) -> Located:
        """A draft in its tree, as if it were saved. Raises NotFound, InvalidInput,
        FailedPrecondition, DeadlineExceeded.
        """
        check_name(draft.journey, f"{DRAFT_FIELD}.journey", Resource.JOURNEY)
        prepared = self._criteria.prepared([draft.criteria], DRAFT_CRITERIA, deadline)
        plan = planned(
            self._repository, account_of(draft.journey), lambda: self._checked_draft(draft, prepared)
        )
        with self._repository.reading():
            return plan()

    def _checked_draft(self, draft: Draft, prepared: Prepared) -> Located:
        self._repository.get(Journey, draft.journey)
        saved = self._forest.tree(draft.journey)
        milestone = self._replacing(draft) if draft.replaces else self._added(draft, saved)
        self._refuse_misfit(milestone)
        if milestone.criterion is not None:
            self._criteria.require(saved, milestone, milestone.criterion, DRAFT_CRITERIA, prepared)
        tree = saved.with_draft(milestone)
        account = account_of(draft.journey)
        return Located(
            account=self._forest.account(account),
            tree=tree,
            id=milestone.id,
            resolver=self._forest.resolver(account, {tree.name: tree}),
            criteria_field=DRAFT_CRITERIA,
        )

    def _replacing(self, draft: Draft) -> TreeMilestone:
        field = f"{DRAFT_FIELD}.replaces"
        check_name(draft.replaces, field, Resource.MILESTONE)
        if journey_of(draft.replaces) != draft.journey:
            raise InvalidInput.one(field, f"must name a milestone of {draft.journey}")
        saved = tree_milestone(self._repository.get(Milestone, draft.replaces))
        return msgspec.structs.replace(saved, criterion=draft.criteria)

    def _added(self, draft: Draft, tree: JourneyTree) -> TreeMilestone:
        field = f"{DRAFT_FIELD}.parent_milestone"
        parent = draft.parent or None
        if parent is not None:
            check_name(parent, field, Resource.MILESTONE)
            if account_of(parent) != account_of(draft.journey):
                raise NotFound(parent)
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
        if milestone.kind is MilestoneKind.CRITERIA and milestone.criterion is None:
            raise InvalidInput.one(DRAFT_CRITERIA, "is required for a CRITERIA milestone")
        if milestone.kind is MilestoneKind.REMAINING_USERS and milestone.criterion is not None:
            raise InvalidInput.one(DRAFT_CRITERIA, "must be absent for a REMAINING_USERS milestone")


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
