"""Milestones and the rules of splits.

Siblings are numbered from 0 without gaps, remaining users last. A milestone and its audience are created and
deleted together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

import msgspec

from engine.clock import Clock
from engine.errors import AlreadyExists, FailedPrecondition, InvalidInput, LimitExceeded, NotFound, Warning
from engine.limits import JOURNEY_LEVELS_MAX, JOURNEY_MILESTONES_MAX, Limits
from engine.plan.tree import JourneyTree, audiences_in
from engine.resources.activation import LIVE_STATES
from engine.resources.audience_levels import raised_too_far, too_deep
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.criteria import CriteriaCheck, Prepared
from engine.resources.journeys import Changed
from engine.resources.milestone_tree import Forest, in_tree_order, tree_milestone
from engine.resources.names import Resource, check_name, chosen_or_made_id, is_name, made_id
from engine.resources.paging import Page
from engine.resources.planning import planned
from engine.resources.records import (
    Audience,
    Closing,
    Connection,
    Journey,
    Milestone,
    MilestoneKind,
    account_of,
    journey_of,
)
from engine.resources.repository import Changes, Repository
from engine.resources.requests import Requests
from engine.resources.versions import Versions
from engine.values import Micros

REMAINING_USERS_NAME = "Remaining users"
"""Display name of remaining users that are given none."""

MILESTONE_FIELDS = frozenset({"display_name", "criteria"})
PARENT_FIELD = "milestone.parent_milestone"
CRITERIA_FIELD = "milestone.criteria"

T = TypeVar("T")


class Written(msgspec.Struct, Generic[T], frozen=True):
    """A written record and its warnings."""

    record: T
    warnings: tuple[Warning, ...] = ()


class Edited(msgspec.Struct, frozen=True, kw_only=True):
    """A journey as an edit would make it, and the audiences that the edit would delete."""

    tree: JourneyTree
    deleted: frozenset[str] = frozenset()
    warnings: tuple[Warning, ...] = ()


class Milestones:
    """Creates, reads and changes milestones."""

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
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock
        self._changed = changed

    # --- reading --------------------------------------------------------------------------------------------

    def get_milestone(self, name: str) -> Milestone:
        """The milestone. Raises NotFound."""
        check_name(name, "name", Resource.MILESTONE)
        return self._repository.get(Milestone, name)

    def list_milestones(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[Milestone]:
        """The journey's milestones, parents before children and siblings in order. Raises NotFound."""
        check_name(parent, "parent", Resource.JOURNEY)
        self._repository.get(Journey, parent)
        page = self._repository.pages.of(
            in_tree_order(self._forest.milestones(parent)),
            lambda placed: placed[0],
            ("list_milestones", parent),
            page_size=page_size,
            page_token=page_token,
        )
        return Page(tuple(milestone for _, milestone in page.items), page.next_page_token)

    # --- creating -------------------------------------------------------------------------------------------

    def create_milestone(
        self,
        parent: str,
        milestone_id: str,
        milestone: Milestone,
        request_id: str = "",
        *,
        deadline: float | None = None,
    ) -> Written[Milestone]:
        """Creates a milestone and its audience after its siblings, before remaining users.

        Uses display name, parent, kind and criteria of `milestone`. Raises NotFound, AlreadyExists,
        InvalidInput, FailedPrecondition, and DeadlineExceeded before anything is written.
        """
        check_name(parent, "parent", Resource.JOURNEY)
        prepared = self._criteria.prepared([milestone.criteria], CRITERIA_FIELD, deadline)
        plan = planned(
            self._repository,
            account_of(parent),
            lambda: self._created(parent, milestone_id, milestone, prepared),
        )
        with self._repository.writing() as changes:
            created = self._requests.first_answer("create_milestone", parent, request_id, Milestone)
            if created is None:
                created, siblings = plan()
                self._put_created(changes, created, siblings)
                self._requests.remember(changes, "create_milestone", parent, request_id, created)
        self._changed(parent)
        return Written(created, self._warnings(created))

    def _created(
        self, parent: str, milestone_id: str, milestone: Milestone, prepared: Prepared
    ) -> tuple[Milestone, Sequence[Milestone]]:
        """The milestone to create, and its siblings."""
        self._repository.get(Journey, parent)
        name = f"{parent}/milestones/{chosen_or_made_id(milestone_id, 'milestone_id')}"
        if self._repository.find(Milestone, name) is not None:
            raise AlreadyExists(name)
        siblings = self.siblings(parent, self._parent_of(parent, milestone))
        _refuse_misfit(milestone)
        _refuse_second_remaining(milestone, siblings)
        self._refuse_outgrown(parent, milestone.parent)
        now = self._clock()
        created = msgspec.structs.replace(
            _named(milestone),
            name=name,
            position=sum(map(_is_criteria, siblings)),
            audience=f"{account_of(parent)}/audiences/{made_id()}",
            create_time=now,
            update_time=now,
        )
        self._refuse_faults(created, prepared)
        return created, siblings

    def _put_created(self, changes: Changes, created: Milestone, siblings: Sequence[Milestone]) -> None:
        now = created.create_time
        self._put_renumbered(changes, [*siblings, created], now)
        changes.put(Audience(name=created.audience, milestone=created.name, create_time=now, update_time=now))
        self._touch(changes, journey_of(created.name), now)

    def siblings(self, journey: str, parent: str) -> tuple[Milestone, ...]:
        """The children of a milestone, or of the start (""), in order."""
        found = [m for m in self._forest.milestones(journey) if m.parent == parent]
        return tuple(sorted(found, key=lambda m: m.position))

    def _parent_of(self, journey: str, milestone: Milestone) -> str:
        parent = milestone.parent
        if not parent:
            return ""
        known = is_name(parent, Resource.MILESTONE) and self._repository.find(Milestone, parent)
        if not known or account_of(parent) != account_of(journey):
            raise InvalidInput.one(PARENT_FIELD, f"milestone {parent!r} does not exist")
        if journey_of(parent) != journey:
            raise FailedPrecondition(
                f"{parent} is a milestone of another journey", reason="PARENT_IN_OTHER_JOURNEY"
            )
        return parent

    def _refuse_outgrown(self, journey: str, parent: str) -> None:
        """Raises LimitExceeded when the journey cannot take one more milestone below `parent`."""
        if len(self._forest.milestones(journey)) >= JOURNEY_MILESTONES_MAX:
            raise LimitExceeded(f"{journey} has {JOURNEY_MILESTONES_MAX} milestones, the most it can have")
        levels = 1
        while parent:
            parent = self._repository.get(Milestone, parent).parent
            levels += 1
        if levels > JOURNEY_LEVELS_MAX:
            raise LimitExceeded(f"a journey can have {JOURNEY_LEVELS_MAX} levels of milestones at most")

    def _refuse_faults(self, milestone: Milestone, prepared: Prepared) -> None:
        refuse_if_any(display_name_faults(milestone.display_name, "milestone.display_name", self._limits))
        if milestone.criteria is not None:
            tree = self._forest.tree(journey_of(milestone.name))
            located = tree_milestone(milestone)
            self._criteria.require(tree, located, milestone.criteria, CRITERIA_FIELD, prepared)
            if any(audiences_in(milestone.criteria)):
                _refuse_raised(self._forest, tree.with_draft(located), CRITERIA_FIELD)

    def _warnings(self, milestone: Milestone) -> tuple[Warning, ...]:
        """The warnings about a milestone that was written; none once its journey is deleted."""
        if milestone.criteria is None:
            return ()
        try:
            tree = self._forest.tree(journey_of(milestone.name))
        except NotFound:
            return ()
        return self._criteria.warnings(tree).of(milestone.criteria, CRITERIA_FIELD)

    def _put_renumbered(self, changes: Changes, siblings: Iterable[Milestone], now: Micros) -> None:
        """Writes the siblings that are new or change position. Remaining users go last."""
        ordered = sorted(siblings, key=lambda m: not _is_criteria(m))
        for position, sibling in enumerate(ordered):
            is_new = self._repository.find(Milestone, sibling.name) is None
            if is_new or sibling.position != position:
                changes.put(msgspec.structs.replace(sibling, position=position, update_time=now))

    # --- changing -------------------------------------------------------------------------------------------

    def update_milestone(
        self,
        record: Milestone,
        fields: Collection[str],
        etag: str = "",
        *,
        deadline: float | None = None,
    ) -> Written[Milestone]:
        """Changes the named fields, `display_name` and `criteria`. Raises NotFound, EtagMismatch,
        InvalidInput, and DeadlineExceeded before anything is written.
        """
        plan = self._planned_update(record, fields, etag, deadline)
        with self._repository.writing() as changes:
            updated = plan()
            changes.put(updated)
            self._touch(changes, journey_of(record.name), updated.update_time)
        self._changed(journey_of(record.name))
        return Written(updated, self._warnings(updated))

    def _planned_update(
        self, record: Milestone, fields: Collection[str], etag: str, deadline: float | None
    ) -> Callable[[], Milestone]:
        check_name(record.name, "milestone.name", Resource.MILESTONE)
        values = masked_values(record, fields, MILESTONE_FIELDS)
        prepared = self._criteria.prepared(
            [record.criteria if "criteria" in values else None], CRITERIA_FIELD, deadline
        )
        return planned(
            self._repository,
            account_of(record.name),
            lambda: self._updated(record.name, values, etag, prepared),
        )

    def _updated(self, name: str, values: Mapping[str, object], etag: str, prepared: Prepared) -> Milestone:
        known = self._repository.get(Milestone, name)
        check_etag(known, etag)
        changed = _named(msgspec.structs.replace(known, **values, update_time=self._clock()))
        if "criteria" in values:
            _refuse_misfit(changed)
        self._refuse_faults(changed, prepared)
        return changed

    def move_milestone(self, name: str, position: int, etag: str = "") -> Milestone:
        """Moves a criteria milestone to a position, from 0, among its siblings; beyond the last = last before
        remaining users. Raises NotFound, EtagMismatch, InvalidInput.
        """
        journey = journey_of(name)
        plan = planned(self._repository, account_of(name), lambda: self._ordered(name, position, etag)[0])
        with self._repository.writing() as changes:
            now = self._clock()
            self._put_renumbered(changes, plan(), now)
            self._touch(changes, journey, now)
        self._changed(journey)
        return self._repository.get(Milestone, name)

    def _ordered(self, name: str, position: int, etag: str) -> tuple[Sequence[Milestone], JourneyTree]:
        """The siblings in their new order, and the tree with them."""
        check_name(name, "name", Resource.MILESTONE)
        if position < 0:
            raise InvalidInput.one("position", "must not be negative")
        journey = journey_of(name)
        known = self._repository.get(Milestone, name)
        check_etag(known, etag)
        if not _is_criteria(known):
            raise InvalidInput.one("name", "remaining users cannot move: they are always last")
        others = [m for m in self.siblings(journey, known.parent) if m.name != name]
        room = sum(map(_is_criteria, others))
        others.insert(min(position, room), known)
        return others, self._moved(journey, others)

    def _moved(self, journey: str, ordered: Sequence[Milestone]) -> JourneyTree:
        """The tree with that order of siblings. Raises InvalidInput if it creates a cycle or too many levels
        of audiences, since later siblings depend on earlier ones.
        """
        tree = self._forest.tree(journey)
        places = {milestone.name: place for place, milestone in enumerate(ordered)}
        moved = tuple(
            msgspec.structs.replace(m, position=places.get(m.id, m.position)) for m in tree.milestones
        )
        after = msgspec.structs.replace(tree, milestones=moved)
        if self._forest.is_cyclic(after):
            raise InvalidInput.one(
                "position",
                "in this order an audience would depend on itself",
                reason="INVALID_CRITERIA",
            )
        _refuse_raised(self._forest, after, "position")
        return after

    # --- deleting -------------------------------------------------------------------------------------------

    def delete_milestone(self, name: str, etag: str = "") -> None:
        """Deletes a milestone without children; see `delete_with_audience`. Raises NotFound, EtagMismatch,
        FailedPrecondition.
        """
        journey = journey_of(name)
        plan = planned(self._repository, account_of(name), lambda: self._unneeded(name, etag))
        with self._repository.writing() as changes:
            known = plan()
            now = self._clock()
            delete_with_audience(self._repository, changes, known, now)
            rest = [m for m in self.siblings(journey, known.parent) if m.name != name]
            self._put_renumbered(changes, rest, now)
            self._touch(changes, journey, now)
        self._changed(journey)

    def _unneeded(self, name: str, etag: str) -> Milestone:
        check_name(name, "name", Resource.MILESTONE)
        known = self._repository.get(Milestone, name)
        check_etag(known, etag)
        self._refuse_needed(known)
        return known

    def _refuse_needed(self, milestone: Milestone) -> None:
        children = self.siblings(journey_of(milestone.name), milestone.name)
        if children:
            names = ",".join(child.name for child in children)
            raise FailedPrecondition(
                f"{milestone.name} has children: {names}",
                reason="MILESTONE_HAS_CHILDREN",
                metadata={"children": names},
            )
        referring = ",".join(self._forest.referring({milestone.audience}))
        if referring:
            raise FailedPrecondition(
                f"{milestone.audience} is named in the criteria of {referring}",
                reason="AUDIENCE_IN_USE",
                metadata={"milestones": referring},
            )
        siblings = self.siblings(journey_of(milestone.name), milestone.parent)
        if _is_criteria(milestone) and sum(map(_is_criteria, siblings)) == 1 and len(siblings) > 1:
            raise FailedPrecondition(
                f"the remaining users {siblings[-1].name} need a criteria sibling; delete them first",
                reason="REMAINING_USERS_NEED_CRITERIA",
                metadata={"milestone": siblings[-1].name},
            )

    # --- previewing -----------------------------------------------------------------------------------------

    def updated(
        self,
        record: Milestone,
        fields: Collection[str],
        etag: str = "",
        *,
        deadline: float | None = None,
    ) -> Edited:
        """What `update_milestone` would make of the journey. Raises as it does."""
        plan = self._planned_update(record, fields, etag, deadline)
        with self._repository.reading():
            after = tree_milestone(plan())
            tree = self._forest.tree(journey_of(record.name))
        others = (m for m in tree.milestones if m.id != after.id)
        edited = msgspec.structs.replace(tree, milestones=(*others, after))
        warnings: tuple[Warning, ...] = ()
        if after.criterion is not None:
            warnings = self._criteria.warnings(edited).of(after.criterion, CRITERIA_FIELD)
        return Edited(tree=edited, warnings=warnings)

    def moved(self, name: str, position: int, etag: str = "") -> Edited:
        """What `move_milestone` would make of the journey. Raises as it does."""
        with self._repository.reading():
            return Edited(tree=self._ordered(name, position, etag)[1])

    def deleted(self, name: str, etag: str = "") -> Edited:
        """What `delete_milestone` would make of the journey. Raises as it does."""
        with self._repository.reading():
            known = self._unneeded(name, etag)
            tree = self._forest.tree(journey_of(name))
        rest = tuple(m for m in tree.milestones if m.id != name)
        return Edited(
            tree=msgspec.structs.replace(tree, milestones=rest), deleted=frozenset({known.audience})
        )

    def _touch(self, changes: Changes, journey: str, now: Micros) -> None:
        record = self._repository.get(Journey, journey)
        self._versions.put(changes, msgspec.structs.replace(record, update_time=now))


def delete_with_audience(repository: Repository, changes: Changes, milestone: Milestone, now: Micros) -> None:
    """Deletes a milestone, its audience and its connections.

    Connections that were live stay until they have delivered every member's exit (`Closing`).
    """
    audience = repository.get(Audience, milestone.audience)
    changes.delete(milestone)
    changes.delete(audience)
    for connection in repository.scan(Connection, f"{account_of(milestone.name)}/connections/"):
        is_live = connection.state in LIVE_STATES or connection.exiting
        if connection.audience == audience.name and not is_live:
            changes.delete(connection)
    changes.put(
        Closing(name=audience.name, audience=audience, milestone=milestone, create_time=now, update_time=now)
    )


def _is_criteria(milestone: Milestone) -> bool:
    return milestone.kind is MilestoneKind.CRITERIA


def _named(milestone: Milestone) -> Milestone:
    if milestone.display_name or _is_criteria(milestone):
        return milestone
    return msgspec.structs.replace(milestone, display_name=REMAINING_USERS_NAME)


def _refuse_raised(forest: Forest, edited: JourneyTree, field: str) -> None:
    """Raises InvalidInput when the edit has audiences name each other over too many levels."""
    raised = raised_too_far(forest, edited)
    if raised:
        raise InvalidInput.one(field, too_deep(raised), reason="INVALID_CRITERIA")


def _refuse_misfit(milestone: Milestone) -> None:
    """Raises InvalidInput unless criteria are present exactly for a CRITERIA milestone."""
    if _is_criteria(milestone) and milestone.criteria is None:
        raise InvalidInput.one(CRITERIA_FIELD, "is required for a CRITERIA milestone")
    if not _is_criteria(milestone) and milestone.criteria is not None:
        raise InvalidInput.one(CRITERIA_FIELD, "must be absent for a REMAINING_USERS milestone")


def _refuse_second_remaining(milestone: Milestone, siblings: Sequence[Milestone]) -> None:
    """At most one per split, and only after a criteria sibling exists."""
    if _is_criteria(milestone):
        return
    for sibling in siblings:
        if not _is_criteria(sibling):
            raise FailedPrecondition(
                f"the split already has the remaining users {sibling.name}",
                reason="REMAINING_USERS_EXISTS",
                metadata={"milestone": sibling.name},
            )
    if not siblings:
        raise FailedPrecondition(
            "remaining users need a criteria sibling before them", reason="REMAINING_USERS_NEED_CRITERIA"
        )
