"""The records of an account's journeys as the trees that the planner reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

import msgspec

from engine.criteria.model import Audience, Criterion
from engine.criteria.visitor import with_children
from engine.errors import NotFound
from engine.plan.tree import Account as PlanAccount
from engine.plan.tree import (
    AudienceCycle,
    JourneyTree,
    TreeMilestone,
    audiences_in,
    made_of,
)
from engine.resources import records as model
from engine.resources.names import Resource, is_name
from engine.resources.records import Account, Input, Journey, Milestone, account_of, journey_of
from engine.resources.repository import Repository

Overlay: TypeAlias = dict[str, JourneyTree]
"""Trees by journey name that replace the saved ones: drafts and pending writes."""


class Forest:
    """Builds the trees and caches them until the records change. Milestone ids are resource names."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._trees: dict[str, JourneyTree] = {}
        self._generation = 0
        """That of the cached trees, which hold no record that has been replaced."""

    def account(self, name: str) -> PlanAccount:
        """The planner's view of an account. Raises NotFound."""
        record = self._repository.get(Account, name)
        return PlanAccount(name, record.time_zone, record.event_retention)

    def all_inputs(self, account: str) -> tuple[str, ...]:
        """Every input of an account, by name."""
        return tuple(record.name for record in self._repository.scan(Input, f"{account}/workspaces/"))

    def inputs(self, journey: Journey) -> tuple[str, ...]:
        """The inputs of a journey. None selected = all current inputs."""
        return journey.inputs or self.all_inputs(account_of(journey.name))

    def milestones(self, journey: str) -> tuple[Milestone, ...]:
        """A journey's milestones, in order of name."""
        return self._repository.scan(Milestone, f"{journey}/milestones/")

    def tree(self, journey: str) -> JourneyTree:
        """The saved journey. Raises NotFound."""
        with self._repository.reading():
            generation = self._repository.generation(Input, Journey, Milestone)
            if self._generation != generation:
                self._trees.clear()
                self._generation = generation
            known = self._trees.get(journey)
            if known is not None:
                return known
            record = self._repository.get(Journey, journey)
            tree = JourneyTree(
                name=journey,
                inputs=tuple(sorted(self.inputs(record))),
                milestones=tuple(tree_milestone(milestone) for milestone in self.milestones(journey)),
            )
            self._trees[journey] = tree
            return tree

    def resolver(
        self, account: str, overlay: Overlay | None = None
    ) -> Callable[[str], tuple[JourneyTree, str]]:
        """Resolves an audience of the account to its tree and milestone. The resolver raises NotFound."""
        trees = overlay or {}

        def resolve(audience: str) -> tuple[JourneyTree, str]:
            if account_of(audience) != account:
                raise NotFound(audience)
            milestone = self._repository.get(model.Audience, audience).milestone
            journey = journey_of(milestone)
            return trees.get(journey) or self.tree(journey), milestone

        return resolve

    def audience_of(self, account: str, milestone: str) -> str:
        """The audience of a milestone of the account, given by name or as `journey/milestone`; "" when there
        is no such milestone.
        """
        journey_id, _, milestone_id = milestone.partition("/")
        short = f"{account}/journeys/{journey_id}/milestones/{milestone_id}"
        name = milestone if account_of(milestone) == account else short
        found = self._repository.find(Milestone, name) if is_name(name, Resource.MILESTONE) else None
        return "" if found is None else found.audience

    def referring(self, audiences: Collection[str]) -> tuple[str, ...]:
        """The milestones (names) of the account whose criteria name one of its audiences."""
        if not audiences:
            return ()
        account = account_of(next(iter(audiences)))
        milestones = self._repository.scan(Milestone, f"{account}/journeys/")
        return tuple(m.name for m in milestones if any(a in audiences for a in audiences_in(m.criteria)))

    def trees(self, account: str) -> list[JourneyTree]:
        """The saved journeys of an account."""
        return [self.tree(journey.name) for journey in self._repository.scan(Journey, f"{account}/journeys/")]

    def named_elsewhere(self, journey: str, milestones: Collection[str]) -> bool:
        """Whether criteria of other journeys name the audience of one of the journey's milestones."""
        audiences = {m.audience for m in self.milestones(journey) if m.name in milestones}
        return any(journey_of(name) != journey for name in self.referring(audiences))

    def is_cyclic(self, tree: JourneyTree) -> bool:
        """Whether an audience would depend on itself if `tree` were saved.

        All its milestones are checked, since each affects its later siblings.
        """
        resolver = self.resolver(account_of(tree.name), {tree.name: tree})
        try:
            made_of(tree, [milestone.id for milestone in tree.milestones], resolver)
        except AudienceCycle:
            return True
        return False


def tree_milestone(milestone: Milestone) -> TreeMilestone:
    """A milestone as the planner reads it."""
    return TreeMilestone(
        id=milestone.name,
        parent=milestone.parent or None,
        position=milestone.position,
        kind=milestone.kind,
        criterion=milestone.criteria,
    )


def in_tree_order(milestones: Iterable[Milestone]) -> Iterator[tuple[tuple[int, ...], Milestone]]:
    """Each milestone with its path of positions: parents before children, siblings in order."""
    children: dict[str, list[Milestone]] = {}
    for milestone in milestones:
        children.setdefault(milestone.parent, []).append(milestone)
    pending: list[tuple[tuple[int, ...], Milestone]] = []
    _push(pending, (), children.get("", []))
    while pending:
        path, milestone = pending.pop()
        yield path, milestone
        _push(pending, path, children.get(milestone.name, []))


def _push(
    pending: list[tuple[tuple[int, ...], Milestone]], path: tuple[int, ...], siblings: list[Milestone]
) -> None:
    ordered = sorted(siblings, key=lambda m: m.position, reverse=True)
    pending.extend(((*path, milestone.position), milestone) for milestone in ordered)


def with_audiences_renamed(criterion: Criterion, names: dict[str, str]) -> Criterion:
    """The criterion with each audience in `names` replaced."""
    if isinstance(criterion, Audience):
        return msgspec.structs.replace(criterion, name=names.get(criterion.name, criterion.name))
    return with_children(criterion, lambda child: with_audiences_renamed(child, names))
