"""Carrying out a difference, one legal step after the other.

Steps are taken in this order as far as the rules of splits allow: updates, new milestones, places, deletions,
new remaining users. A step whose turn has not come (its id is still taken, its parent is not there yet, its
split would lose the criteria that the remaining users need) waits for the others. Where two steps wait for
each other, a milestone that matches no one holds a split open meanwhile. So users move as little as possible
between milestones on the way; what lasts keeps its audience and its connections.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from google.protobuf.field_mask_pb2 import FieldMask

from milepost import names
from milepost.client import Client
from milepost.errors import FailedPrecondition, InvalidArgument, MilepostError
from milepost.journeys.criteria import names_inputs
from milepost.journeys.difference import JourneyDifference, Mark, MilestoneDifference
from milepost.journeys.document import JourneyDocument, MilestoneDocument
from milepost.v1.criteria_pb2 import Criteria, CriteriaList
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    Journey,
    Milestone,
)
from milepost.v1.journey_service_pb2 import (
    CreateJourneyRequest,
    CreateMilestoneRequest,
    DeleteMilestoneRequest,
    MoveMilestoneRequest,
    UpdateJourneyRequest,
    UpdateMilestoneRequest,
)

PLACEHOLDER_NAME = "(being applied)"


@dataclass(frozen=True)
class _Step:
    """One step; `is_ready` says whether the rules of splits allow it as things stand."""

    is_ready: Callable[[], bool]
    take: Callable[[], object]


@dataclass
class _Standing:
    """A milestone as it stands on the service. `stays`: it is in the document too."""

    parent: str
    takes_remaining_users: bool
    stays: bool


class Applying:
    """Makes a journey what the document says. One use."""

    def __init__(self, client: Client, difference: JourneyDifference) -> None:
        self._client = client
        self._difference = difference
        self._journey = client.journey_name(difference.after.id)
        # Siblings in order, under each parent's id.
        self._standing: dict[str, _Standing] = {}
        self._splits: dict[str, list[str]] = {}
        for parent, milestone in _with_parents(difference):
            if milestone.before is not None:
                self._standing[milestone.id] = _Standing(
                    parent, milestone.before.takes_remaining_users, milestone.after is not None
                )
        if difference.before is not None:
            self._splits = dict(_splits(difference.before))

    def run(self) -> None:
        """Takes every step. Raises MilepostError; what was done before that stays done."""
        if self._difference.is_empty:
            return
        self._open_journey()
        pending = list(self._steps())
        while pending:
            waiting, refusal = self._round(pending)
            if len(waiting) == len(pending):
                if refusal is not None:
                    raise refusal
                waiting.append(self._hold_a_split_open())
            pending = waiting
        self._close_journey()

    def _round(self, pending: list[_Step]) -> tuple[list[_Step], MilepostError | None]:
        """Takes the steps that are ready; those left over, and the first refusal.

        Audiences that criteria name can forbid a step for now, by a cycle or by being in use. Only the
        service sees all of them, so it is asked.
        """
        waiting, refusal = [], None
        for step in pending:
            if not step.is_ready():
                waiting.append(step)
                continue
            try:
                step.take()
            except (InvalidArgument, FailedPrecondition) as error:
                refusal = refusal or error
                waiting.append(step)
        return waiting, refusal

    # --- the journey itself ---

    def _open_journey(self) -> None:
        """Creates the journey, or changes it; criteria may name inputs of before as well as of after now."""
        difference = self._difference
        if difference.before is None:
            journey = Journey(
                display_name=difference.after.display_name, inputs=self._inputs(difference.after.inputs)
            )
            self._client.journeys.CreateJourney(
                CreateJourneyRequest(
                    parent=self._client.account_name,
                    journey_id=difference.after.id,
                    journey=journey,
                    request_id=str(uuid.uuid4()),
                )
            )
            return
        if difference.is_renamed:
            self._update_journey("display_name", Journey(display_name=difference.after.display_name))
        if difference.has_other_inputs:
            self._set_inputs(_widest(difference.before, difference.after))

    def _close_journey(self) -> None:
        if self._difference.has_other_inputs:
            self._set_inputs(self._difference.after.inputs)

    def _set_inputs(self, inputs: tuple[str, ...]) -> None:
        if set(self._client.get_journey(self._journey).inputs) != set(self._inputs(inputs)):
            self._update_journey("inputs", Journey(inputs=self._inputs(inputs)))

    def _update_journey(self, field: str, journey: Journey) -> None:
        journey.name = self._journey
        self._client.journeys.UpdateJourney(
            UpdateJourneyRequest(journey=journey, update_mask=FieldMask(paths=[field]))
        )

    def _inputs(self, short: Iterable[str]) -> list[str]:
        account = self._client.account_id
        return [names.input_(account, *name.split("/")) for name in short]

    # --- which steps, and when ---

    def _steps(self) -> Iterator[_Step]:
        everything = list(_with_parents(self._difference))
        changed = [m for _, m in everything if m.is_renamed or m.has_other_criteria]
        created = [(parent, m.after) for parent, m in everything if m.mark is Mark.CREATED and m.after]
        deleted = [m for _, m in everything if m.mark is Mark.DELETED]
        for milestone in changed:
            yield _Step(_always, partial(self._update, milestone))
        for parent, new in created:
            if not new.takes_remaining_users:
                yield _Step(partial(self._has_room, parent, new), partial(self._create, parent, new))
        for parent, milestones in _merged_splits(self._difference):
            if any(m.is_moved or m.mark is Mark.CREATED for m in milestones):
                order = [m.id for m in milestones if m.after and not m.document.takes_remaining_users]
                loose = {m.id for m in milestones if m.is_moved or m.mark is Mark.CREATED}
                yield _Step(partial(self._all_stay, order), partial(self._arrange, parent, order, loose))
        # From the last backwards: children before parents, remaining users before their siblings.
        for milestone in reversed(deleted):
            yield self._deletion(milestone.id)
        for parent, new in created:
            if new.takes_remaining_users:
                yield _Step(partial(self._has_room, parent, new), partial(self._create, parent, new))

    def _deletion(self, milestone: str) -> _Step:
        return _Step(partial(self._is_dispensable, milestone), partial(self._delete, milestone))

    def _has_room(self, parent: str, new: MilestoneDocument) -> bool:
        """Whether its id is free, its parent is there, and its split can take it."""
        if new.id in self._standing or not self._all_stay([parent] if parent else []):
            return False
        kinds = [self._standing[sibling].takes_remaining_users for sibling in self._splits.get(parent, [])]
        return not new.takes_remaining_users or (bool(kinds) and not any(kinds))

    def _all_stay(self, milestones: Iterable[str]) -> bool:
        """Whether the milestones are there as the document has them."""
        return all(each in self._standing and self._standing[each].stays for each in milestones)

    def _is_dispensable(self, milestone: str) -> bool:
        """Whether it has no children, and no remaining users that need it."""
        return not self._splits.get(milestone) and not self._is_needed_by_remaining_users(milestone)

    def _is_needed_by_remaining_users(self, milestone: str) -> bool:
        standing = self._standing[milestone]
        others = [self._standing[each] for each in self._splits[standing.parent] if each != milestone]
        return not standing.takes_remaining_users and bool(others) and others[0].takes_remaining_users

    def _hold_a_split_open(self) -> _Step:
        """Puts a milestone of no one into a split whose last criteria cannot go; how to delete it again."""
        blocked = next(
            each
            for each, standing in self._standing.items()
            if not standing.stays and not self._splits.get(each) and self._is_needed_by_remaining_users(each)
        )
        placeholder = MilestoneDocument("", PLACEHOLDER_NAME, Criteria(any_of=CriteriaList()))
        made = self._create(self._standing[blocked].parent, placeholder)
        self._standing[made].stays = False
        return self._deletion(made)

    # --- the steps ---

    def _update(self, milestone: MilestoneDifference) -> None:
        after = milestone.document
        message = Milestone(name=self._name(after.id))
        paths = []
        if milestone.is_renamed:
            message.display_name = after.display_name
            paths.append("display_name")
        if milestone.has_other_criteria and after.criteria is not None:
            message.criteria.CopyFrom(after.criteria)
            paths.append("criteria")
        self._client.journeys.UpdateMilestone(
            UpdateMilestoneRequest(milestone=message, update_mask=FieldMask(paths=paths))
        )

    def _create(self, parent: str, new: MilestoneDocument) -> str:
        remaining = new.takes_remaining_users
        milestone = Milestone(
            display_name=new.display_name,
            parent_milestone=self._name(parent) if parent else "",
            kind=MILESTONE_KIND_REMAINING_USERS if remaining else MILESTONE_KIND_CRITERIA,
            criteria=new.criteria,
        )
        created = self._client.journeys.CreateMilestone(
            CreateMilestoneRequest(
                parent=self._journey,
                milestone_id=new.id,
                milestone=milestone,
                request_id=str(uuid.uuid4()),
            )
        ).milestone
        made = names.last_id(created.name)
        self._standing[made] = _Standing(parent, remaining, stays=True)
        self._splits.setdefault(parent, []).insert(created.position, made)
        return made

    def _arrange(self, parent: str, order: list[str], loose: set[str]) -> None:
        """Gives each loose milestone its place behind the one that comes before it in `order`."""
        split = self._splits[parent]
        for index, milestone in enumerate(order):
            if milestone not in loose:
                continue
            without = [each for each in split if each != milestone]
            place = without.index(order[index - 1]) + 1 if index else 0
            if split[place] == milestone:
                continue
            self._client.journeys.MoveMilestone(
                MoveMilestoneRequest(name=self._name(milestone), position=place)
            )
            split.remove(milestone)
            split.insert(place, milestone)

    def _delete(self, milestone: str) -> None:
        self._client.journeys.DeleteMilestone(DeleteMilestoneRequest(name=self._name(milestone)))
        self._splits[self._standing.pop(milestone).parent].remove(milestone)

    def _name(self, milestone: str) -> str:
        return f"{self._journey}/milestones/{milestone}"


def _always() -> bool:
    return True


def _with_parents(difference: JourneyDifference) -> Iterator[tuple[str, MilestoneDifference]]:
    """Every milestone of before or after with the id of its parent."""
    for parent, milestones in _merged_splits(difference):
        yield from ((parent, milestone) for milestone in milestones)


def _merged_splits(
    difference: JourneyDifference,
) -> Iterator[tuple[str, tuple[MilestoneDifference, ...]]]:
    """Every split of before and after together, under its parent's id, parents before children."""
    yield "", difference.milestones
    for milestone in difference.walk():
        yield milestone.id, milestone.children


def _splits(document: JourneyDocument) -> Iterator[tuple[str, list[str]]]:
    """Every split, siblings in order, under its parent's id."""
    yield "", [milestone.id for milestone in document.milestones]
    for milestone in document.walk():
        yield milestone.id, [child.id for child in milestone.children]


def _widest(before: JourneyDocument, after: JourneyDocument) -> tuple[str, ...]:
    """The inputs to choose while steps are taken: those of both when criteria name inputs, otherwise the new
    ones at once.
    """
    criteria = [each.criteria for each in (*before.walk(), *after.walk()) if each.criteria is not None]
    if not any(names_inputs(each) for each in criteria):
        return after.inputs
    if not before.inputs or not after.inputs:
        return ()
    return tuple(sorted({*before.inputs, *after.inputs}))
