"""The changes of applying a document, as a tree with the sizes before and after.

A milestone lasts when the document has it with the same id and kind, below the same lasting milestone.
Otherwise it is deleted with its descendants, and the document's milestone is created.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from milepost.journeys.document import JourneyDocument, MilestoneDocument


class Mark(enum.StrEnum):
    """The change of a journey or a milestone."""

    SAME = " "
    CREATED = "+"
    CHANGED = "~"
    DELETED = "-"


@dataclass(frozen=True)
class MilestoneDifference:
    """A milestone before and after; None where it does not exist. `is_moved`: its position among its siblings
    changes. `users_before` and `users_after` are None where it does not exist and until they are counted.
    `active_connections` are the ids of those that are deleted with it.
    """

    before: MilestoneDocument | None
    after: MilestoneDocument | None
    is_moved: bool = False
    users_before: int | None = None
    users_after: int | None = None
    active_connections: tuple[str, ...] = ()
    children: tuple[MilestoneDifference, ...] = ()

    @property
    def document(self) -> MilestoneDocument:
        """The milestone after the change, or before it when it is deleted."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def id(self) -> str:
        """The milestone's id."""
        return self.document.id

    @property
    def is_renamed(self) -> bool:
        """Whether its display name changes."""
        return bool(self.before and self.after and self.before.display_name != self.after.display_name)

    @property
    def has_other_criteria(self) -> bool:
        """Whether its criteria change."""
        return bool(self.before and self.after and self.before.criteria != self.after.criteria)

    @property
    def mark(self) -> Mark:
        """Its change."""
        if self.before is None:
            return Mark.CREATED
        if self.after is None:
            return Mark.DELETED
        return Mark.CHANGED if self.is_renamed or self.has_other_criteria or self.is_moved else Mark.SAME

    def walk(self) -> Iterator[MilestoneDifference]:
        """This milestone and its descendants, parents before children and siblings in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class JourneyDifference:
    """A journey before (None: it does not exist) and after. Populations are the users of the start, None
    until they are counted. `warnings` are pairs of a path in the document and a possible mistake there.
    `etag` is that of the version before.
    """

    before: JourneyDocument | None
    after: JourneyDocument
    milestones: tuple[MilestoneDifference, ...]
    population_before: int | None = None
    population_after: int | None = None
    warnings: tuple[tuple[str, str], ...] = field(default=())
    etag: str = ""

    @property
    def is_renamed(self) -> bool:
        """Whether the journey's display name changes."""
        return self.before is not None and self.before.display_name != self.after.display_name

    @property
    def has_other_inputs(self) -> bool:
        """Whether the journey's inputs change."""
        return self.before is not None and set(self.before.inputs) != set(self.after.inputs)

    @property
    def mark(self) -> Mark:
        """The change of the journey itself."""
        if self.before is None:
            return Mark.CREATED
        return Mark.CHANGED if self.is_renamed or self.has_other_inputs else Mark.SAME

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.mark is Mark.SAME and all(each.mark is Mark.SAME for each in self.walk())

    def walk(self) -> Iterator[MilestoneDifference]:
        """Every old or new milestone, parents before children and siblings in order."""
        for milestone in self.milestones:
            yield from milestone.walk()

    def counts(self) -> dict[Mark, int]:
        """The numbers of milestones created, changed and deleted."""
        marks = [milestone.mark for milestone in self.walk()]
        return {mark: marks.count(mark) for mark in (Mark.CREATED, Mark.CHANGED, Mark.DELETED)}


def between(before: JourneyDocument | None, after: JourneyDocument) -> JourneyDifference:
    """The difference between two documents of one journey, without sizes."""
    return JourneyDifference(
        before, after, _split_difference(() if before is None else before.milestones, after.milestones)
    )


def with_sizes(
    difference: JourneyDifference,
    before: Mapping[str, int],
    after: Mapping[str, int],
) -> JourneyDifference:
    """The difference with users by milestone id; "" is the journey's start."""

    def sized(milestone: MilestoneDifference) -> MilestoneDifference:
        return replace(
            milestone,
            users_before=before.get(milestone.id) if milestone.before else None,
            users_after=after.get(milestone.id) if milestone.after else None,
            children=tuple(sized(child) for child in milestone.children),
        )

    return replace(
        difference,
        milestones=tuple(sized(milestone) for milestone in difference.milestones),
        population_before=before.get(""),
        population_after=after.get(""),
    )


def with_connections(difference: JourneyDifference, active: Mapping[str, Sequence[str]]) -> JourneyDifference:
    """The difference with the ids of active connections by the id of the milestone; only of those that are
    deleted.
    """

    def connected(milestone: MilestoneDifference) -> MilestoneDifference:
        is_deleted = milestone.mark is Mark.DELETED
        return replace(
            milestone,
            active_connections=tuple(active.get(milestone.id, ())) if is_deleted else (),
            children=tuple(map(connected, milestone.children)),
        )

    return replace(difference, milestones=tuple(map(connected, difference.milestones)))


def _split_difference(
    before: Sequence[MilestoneDocument], after: Sequence[MilestoneDocument]
) -> tuple[MilestoneDifference, ...]:
    """The split after the change; a deleted milestone stays behind its previous sibling."""
    old = {milestone.id: milestone for milestone in before}
    lasting = {
        milestone.id
        for milestone in after
        if milestone.id in old and old[milestone.id].takes_remaining_users is milestone.takes_remaining_users
    }
    moved = lasting - _steady([m.id for m in before if m.id in lasting], [m.id for m in after])
    merged = [
        _difference(old.get(milestone.id) if milestone.id in lasting else None, milestone, moved)
        for milestone in after
    ]
    for place, milestone in enumerate(before):
        if milestone.id not in lasting:
            behind = {before[place - 1].id} if place else set()
            at = max((i + 1 for i, each in enumerate(merged) if each.before and each.id in behind), default=0)
            merged.insert(at, _difference(milestone, None, moved))
    return tuple(merged)


def _difference(
    before: MilestoneDocument | None, after: MilestoneDocument | None, moved: set[str]
) -> MilestoneDifference:
    return MilestoneDifference(
        before,
        after,
        is_moved=before is not None and after is not None and after.id in moved,
        children=_split_difference(before.children if before else (), after.children if after else ()),
    )


def _steady(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """The largest part of `before` that keeps its order while the others move: a longest increasing
    subsequence of their positions in `after`.
    """
    places = {milestone: place for place, milestone in enumerate(after)}
    # The least position at which a chain of each length ends, and the chains by that position.
    ends: list[int] = []
    chains: dict[int, tuple[str, int | None]] = {}
    for milestone in before:
        place = places[milestone]
        length = bisect_left(ends, place)
        chains[place] = (milestone, ends[length - 1] if length else None)
        ends[length : length + 1] = [place]
    steady = set()
    at = ends[-1] if ends else None
    while at is not None:
        milestone, at = chains[at]
        steady.add(milestone)
    return steady
