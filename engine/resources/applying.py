"""Applies a whole journey as a document: checks all of it, then makes it so in one commit.

A milestone lasts when the document has it with the same id and kind, below the same lasting milestone. Any
other saved milestone is deleted with its audience, and any other milestone of the document is created.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from engine.clock import Clock
from engine.criteria.faults import CRITERIA_PATH
from engine.criteria.model import AnyOf, Criterion
from engine.errors import EtagMismatch, FailedPrecondition, InvalidInput, Violation, Violations, Warning
from engine.limits import JOURNEY_LEVELS_MAX, JOURNEY_MILESTONES_MAX, Limits
from engine.plan.tree import JourneyTree, TreeMilestone, audiences_in
from engine.resources.audience_levels import raised_too_far, too_deep
from engine.resources.checks import display_name_faults, input_faults, refuse_if_any
from engine.resources.criteria import CriteriaCheck, Prepared
from engine.resources.documents import DOCUMENT_FIELD, JourneyDocument, MilestoneDocument, Placed, placed
from engine.resources.journeys import Changed
from engine.resources.milestone_tree import Forest, in_tree_order, tree_milestone
from engine.resources.milestones import REMAINING_USERS_NAME, Edited, delete_with_audience
from engine.resources.names import ID_RULE, Resource, check_name, is_id, made_id
from engine.resources.planning import planned
from engine.resources.records import Account, Audience, Journey, Milestone, account_of, journey_of
from engine.resources.repository import Changes, Repository
from engine.resources.versions import Versions
from engine.values import Micros

JOURNEY_FIELDS = ("display_name", "inputs")
MILESTONE_FIELDS = ("display_name", "criteria", "position")


class Action(enum.Enum):
    """What applying does to a journey or a milestone."""

    CREATED = enum.auto()
    UPDATED = enum.auto()
    MOVED = enum.auto()
    """Only its position changes."""
    DELETED = enum.auto()


class AppliedChange(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `field` is the path in the request, "" for a deletion; `changed_fields` are those of an
    update or a move.
    """

    name: str
    action: Action
    field: str = ""
    changed_fields: tuple[str, ...] = ()


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. `journey` is None when nothing was written and none is saved."""

    journey: Journey | None
    changes: tuple[AppliedChange, ...]
    warnings: tuple[Warning, ...]


@dataclass(frozen=True)
class _Wanted:
    """A milestone as it will be, with its record before (None = it is created)."""

    path: str
    before: Milestone | None
    after: Milestone

    @property
    def changed_fields(self) -> tuple[str, ...]:
        return () if self.before is None else _differing(self.before, self.after, MILESTONE_FIELDS)


@dataclass(frozen=True)
class _Outcome:
    """The state that the document asks for. `deleted`: children before parents."""

    before: Journey | None
    journey: Journey
    deleted: tuple[Milestone, ...]
    wanted: tuple[_Wanted, ...]

    @property
    def deleted_audiences(self) -> frozenset[str]:
        return frozenset(milestone.audience for milestone in self.deleted)

    @property
    def criteria(self) -> dict[str, Criterion]:
        """The criteria, by path."""
        return {
            f"{each.path}.{CRITERIA_PATH}": each.after.criteria
            for each in self.wanted
            if each.after.criteria is not None
        }

    def changes(self) -> Iterator[AppliedChange]:
        """The changes of the journey, then deletions, then the others in the order of the document."""
        fields = () if self.before is None else _differing(self.before, self.journey, JOURNEY_FIELDS)
        if self.before is None or fields:
            action = Action.CREATED if self.before is None else Action.UPDATED
            yield AppliedChange(
                name=self.journey.name, action=action, field=DOCUMENT_FIELD, changed_fields=fields
            )
        for milestone in self.deleted:
            yield AppliedChange(name=milestone.name, action=Action.DELETED)
        for wanted in self.wanted:
            fields = wanted.changed_fields
            if wanted.before is None or fields:
                action = Action.MOVED if fields == ("position",) else Action.UPDATED
                yield AppliedChange(
                    name=wanted.after.name,
                    action=Action.CREATED if wanted.before is None else action,
                    field=wanted.path,
                    changed_fields=fields,
                )


class Applying:
    """Applies documents."""

    def __init__(
        self,
        repository: Repository,
        forest: Forest,
        criteria: CriteriaCheck,
        versions: Versions,
        limits: Limits,
        clock: Clock,
        changed: Changed,
    ) -> None:
        self._repository = repository
        self._forest = forest
        self._criteria = criteria
        self._versions = versions
        self._limits = limits
        self._clock = clock
        self._changed = changed

    def apply(
        self,
        parent: str,
        document: JourneyDocument,
        etag: str = "",
        *,
        validate_only: bool = False,
        deadline: float | None = None,
    ) -> Applied:
        """Makes the journey what the document says, or changes nothing.

        Raises NotFound, EtagMismatch, InvalidInput with every fault, and FailedPrecondition when criteria of
        other journeys name an audience that would be deleted. Raises DeadlineExceeded before anything is
        written.
        """
        check_name(parent, "parent", Resource.ACCOUNT)
        plan = self._planned(parent, document, etag, deadline)
        with self._repository.writing() as changes:
            outcome, tree = plan()
            made = tuple(outcome.changes())
            is_written = bool(made) and not validate_only
            journey = self._write(changes, outcome) if is_written else outcome.before
        if is_written:
            self._changed(outcome.journey.name)
        warnings = self._criteria.warnings(tree).of_all(outcome.criteria)
        return Applied(journey=journey, changes=made, warnings=warnings)

    def applied(
        self, parent: str, document: JourneyDocument, etag: str = "", *, deadline: float | None = None
    ) -> Edited:
        """What `apply` would make of the journey. Raises as it does."""
        check_name(parent, "parent", Resource.ACCOUNT)
        plan = self._planned(parent, document, etag, deadline)
        with self._repository.reading():
            outcome, tree = plan()
        warnings = self._criteria.warnings(tree).of_all(outcome.criteria)
        return Edited(tree=tree, deleted=outcome.deleted_audiences, warnings=warnings)

    def _planned(
        self, parent: str, document: JourneyDocument, etag: str, deadline: float | None
    ) -> Callable[[], tuple[_Outcome, JourneyTree]]:
        prepared = self._criteria.prepared(
            (each.milestone.criteria for each in placed(document)), DOCUMENT_FIELD, deadline
        )
        return planned(self._repository, parent, lambda: self._checked(parent, document, etag, prepared))

    def _checked(
        self, parent: str, document: JourneyDocument, etag: str, prepared: Prepared
    ) -> tuple[_Outcome, JourneyTree]:
        """What the document asks for, without a fault."""
        self._repository.get(Account, parent)
        refuse_if_any(_shape_faults(document, self._limits))
        outcome = self._outcome(parent, document, etag)
        refuse_if_any(input_faults(self._repository, outcome.journey, DOCUMENT_FIELD))
        self._refuse_used_elsewhere(outcome)
        tree = self._tree(outcome)
        self._refuse_faults(outcome, tree, prepared)
        return outcome, tree

    def _outcome(self, parent: str, document: JourneyDocument, etag: str) -> _Outcome:
        name = f"{parent}/journeys/{document.journey}"
        before = self._repository.find(Journey, name)
        if before is not None:
            if etag not in ("", self._versions.current(before).etag):
                raise EtagMismatch(f"{name} changed since it was read", metadata={"resource": name})
        elif etag:
            raise EtagMismatch(f"{name} no longer exists", metadata={"resource": name})
        now = self._clock()
        saved = [milestone for _, milestone in in_tree_order(self._forest.milestones(name))]
        wanted = tuple(_wanted(name, document, {milestone.name: milestone for milestone in saved}, now))
        lasting = {each.before.name for each in wanted if each.before is not None}
        return _Outcome(
            before=before,
            journey=_wanted_journey(name, document, before, now),
            deleted=tuple(milestone for milestone in reversed(saved) if milestone.name not in lasting),
            wanted=wanted,
        )

    def _refuse_used_elsewhere(self, outcome: _Outcome) -> None:
        deleted = outcome.deleted_audiences
        referring = [m for m in self._forest.referring(deleted) if journey_of(m) != outcome.journey.name]
        if referring:
            names = ",".join(referring)
            raise FailedPrecondition(
                f"the criteria of {names} name audiences of milestones that the document leaves out",
                reason="AUDIENCE_IN_USE",
                metadata={"milestones": names},
            )

    def _tree(self, outcome: _Outcome) -> JourneyTree:
        """The tree as it will be."""
        deleted = outcome.deleted_audiences
        return JourneyTree(
            name=outcome.journey.name,
            inputs=tuple(sorted(self._forest.inputs(outcome.journey))),
            milestones=tuple(
                self._resolvable(tree_milestone(each.after), deleted) for each in outcome.wanted
            ),
        )

    def _refuse_faults(self, outcome: _Outcome, tree: JourneyTree, prepared: Prepared) -> None:
        """Raises InvalidInput with every fault of the criteria."""
        faults, deleted = Violations(), outcome.deleted_audiences
        for each in outcome.wanted:
            criteria, path = each.after.criteria, f"{each.path}.{CRITERIA_PATH}"
            if criteria is not None:
                located = tree_milestone(each.after)
                faults.extend(self._criteria.faults(tree, located, criteria, path, prepared, deleted=deleted))
        # Levels of criteria with faults mean nothing, and a cycle has none.
        raised = () if faults else raised_too_far(self._forest, tree)
        if raised:
            paths = {each.after.name: f"{each.path}.{CRITERIA_PATH}" for each in outcome.wanted}
            field = paths.get(raised[0], f"{DOCUMENT_FIELD}.milestones")
            faults.add(Violation(field, too_deep(raised)))
        if faults:
            raise InvalidInput(faults, reason="INVALID_CRITERIA")

    def _resolvable(self, milestone: TreeMilestone, deleted: frozenset[str]) -> TreeMilestone:
        """The milestone, without its criteria when they name an audience that does not exist or is deleted.

        That fault is its own; those that depend on it are checked as if it were mended.
        """
        named = audiences_in(milestone.criterion)
        if all(name not in deleted and self._repository.find(Audience, name) is not None for name in named):
            return milestone
        return msgspec.structs.replace(milestone, criterion=AnyOf(criteria=()))

    def _write(self, changes: Changes, outcome: _Outcome) -> Journey:
        for milestone in outcome.deleted:
            delete_with_audience(self._repository, changes, milestone, outcome.journey.update_time)
        for each in outcome.wanted:
            if each.before is None:
                changes.put(each.after)
                changes.put(
                    Audience(
                        name=each.after.audience,
                        milestone=each.after.name,
                        create_time=each.after.create_time,
                        update_time=each.after.update_time,
                    )
                )
            elif each.changed_fields:
                changes.put(each.after)
        if outcome.before is None:
            changes.put(outcome.journey)
            return outcome.journey
        return self._versions.put(changes, outcome.journey)


def _wanted_journey(name: str, document: JourneyDocument, before: Journey | None, now: Micros) -> Journey:
    account = account_of(name)
    inputs = tuple(_input_name(account, each) for each in document.inputs)
    if before is not None and sorted(before.inputs) == sorted(inputs):
        inputs = before.inputs
    return msgspec.structs.replace(
        before or Journey(name=name, create_time=now),
        display_name=document.display_name or document.journey,
        inputs=inputs,
        update_time=now,
    )


def _input_name(account: str, name: str) -> str:
    """The resource name of an input given as `workspace/input` or by name."""
    workspace, slash, input_id = name.partition("/")
    if slash and "/" not in input_id:
        return f"{account}/workspaces/{workspace}/inputs/{input_id}"
    return name


def _wanted(
    journey: str, document: JourneyDocument, saved: Mapping[str, Milestone], now: Micros
) -> Iterator[_Wanted]:
    lasting: set[str] = {""}
    for each in placed(document):
        name = f"{journey}/milestones/{each.milestone.id}"
        parent = each.parent and f"{journey}/milestones/{each.parent}"
        before = saved.get(name)
        if before is not None and (
            parent not in lasting or (before.parent, before.kind) != (parent, each.milestone.kind)
        ):
            before = None
        after = msgspec.structs.replace(
            before or _created(name, parent, each, now),
            display_name=each.milestone.display_name or _default_name(each.milestone),
            criteria=each.milestone.criteria,
            position=each.position,
            update_time=now,
        )
        if before is not None:
            lasting.add(name)
        yield _Wanted(each.path, before, after)


def _created(name: str, parent: str, each: Placed, now: Micros) -> Milestone:
    return Milestone(
        name=name,
        parent=parent,
        kind=each.milestone.kind,
        audience=f"{account_of(name)}/audiences/{made_id()}",
        create_time=now,
    )


def _default_name(milestone: MilestoneDocument) -> str:
    return REMAINING_USERS_NAME if milestone.remaining_users else milestone.id


def _differing(before: object, after: object, fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field for field in fields if getattr(before, field) != getattr(after, field))


# --- shape --------------------------------------------------------------------------------------------------


def _shape_faults(document: JourneyDocument, limits: Limits) -> Iterator[Violation]:
    """Every fault of the document by itself: ids, display names, the rules of splits, and the limits."""
    if not is_id(document.journey):
        yield Violation(f"{DOCUMENT_FIELD}.journey", ID_RULE)
    yield from display_name_faults(document.display_name, f"{DOCUMENT_FIELD}.display_name", limits)
    seen: set[str] = set()
    every = tuple(placed(document))
    if len(every) > JOURNEY_MILESTONES_MAX:
        yield Violation(
            f"{DOCUMENT_FIELD}.milestones",
            f"has {len(every)} milestones; at most {JOURNEY_MILESTONES_MAX} are allowed",
        )
        return
    widths: dict[str, int] = {}
    for each in every:
        widths[each.parent] = each.position + 1
    for each in every:
        yield from _milestone_faults(each, seen, widths[each.parent], limits)


def _milestone_faults(each: Placed, seen: set[str], siblings: int, limits: Limits) -> Iterator[Violation]:
    milestone = each.milestone
    if not is_id(milestone.id):
        yield Violation(f"{each.path}.id", ID_RULE)
    elif milestone.id in seen:
        yield Violation(f"{each.path}.id", f"{milestone.id!r} is used twice")
    seen.add(milestone.id)
    yield from display_name_faults(milestone.display_name, f"{each.path}.display_name", limits)
    if (milestone.criteria is not None) is milestone.remaining_users:
        yield Violation(each.path, "needs exactly one of `criteria` and `remaining_users: true`")
    if milestone.remaining_users and not 0 < each.position == siblings - 1:
        yield Violation(
            f"{each.path}.remaining_users", "remaining users must come last, after a sibling with criteria"
        )
    if each.level == JOURNEY_LEVELS_MAX and milestone.children:
        yield Violation(f"{each.path}.children", f"is below the last of {JOURNEY_LEVELS_MAX} levels")
