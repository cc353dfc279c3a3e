"""The planner's view of an account and its journeys, as plain data.

A journey is a tree of milestones. Siblings are exclusive, left to right, first match wins; REMAINING_USERS is
always the last sibling and keeps the users that match none of the others.
"""

from __future__ import annotations

import enum
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from engine.criteria.model import Audience, Criterion
from engine.criteria.visitor import walk
from engine.values import Micros


class MilestoneKind(enum.StrEnum):
    """How a milestone selects from the users it draws."""

    CRITERIA = "criteria"
    REMAINING_USERS = "remaining_users"


class Account(msgspec.Struct, frozen=True):
    """The tenant: resource name `accounts/{a}`, IANA time zone, and event retention (0 = unlimited)."""

    name: str
    time_zone: str = "UTC"
    event_retention: Micros = 0


class TreeMilestone(msgspec.Struct, frozen=True, kw_only=True):
    """One milestone: `parent` None is the journey's start; `position` orders siblings; REMAINING_USERS has no
    criterion and comes last whatever its position.
    """

    id: str
    parent: str | None = None
    position: int = 0
    kind: MilestoneKind = MilestoneKind.CRITERIA
    criterion: Criterion | None = None


class JourneyTree(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A journey with its inputs resolved (resource names; "all inputs" is already a list) and its milestones
    in any order.
    """

    name: str
    inputs: tuple[str, ...]
    milestones: tuple[TreeMilestone, ...] = ()

    @functools.cached_property
    def _by_id(self) -> dict[str, TreeMilestone]:
        return {milestone.id: milestone for milestone in self.milestones}

    @functools.cached_property
    def _splits(self) -> dict[str | None, list[TreeMilestone]]:
        splits: dict[str | None, list[TreeMilestone]] = {}
        for milestone in sorted(self.milestones, key=_place):
            splits.setdefault(milestone.parent, []).append(milestone)
        return splits

    @functools.cached_property
    def _before(self) -> dict[str, TreeMilestone]:
        pairs = (pair for split in self._splits.values() for pair in itertools.pairwise(split))
        return {after.id: before for before, after in pairs}

    def milestone(self, milestone_id: str) -> TreeMilestone:
        """The milestone with that id. Raises KeyError."""
        return self._by_id[milestone_id]

    def children(self, parent: str | None) -> list[TreeMilestone]:
        """The milestones below `parent` (None = at the start), left to right."""
        return list(self._splits.get(parent, ()))

    def just_before(self, milestone: TreeMilestone) -> TreeMilestone | None:
        """The sibling directly before `milestone`; None for the first."""
        return self._before.get(milestone.id)

    def before(self, milestone: TreeMilestone) -> list[TreeMilestone]:
        """The siblings before `milestone`, left to right."""
        siblings = self.children(milestone.parent)
        return siblings[: [sibling.id for sibling in siblings].index(milestone.id)]

    def with_draft(self, draft: TreeMilestone) -> JourneyTree:
        """This journey with `draft` saved: it replaces the milestone with its id or else is inserted, and
        siblings at its position and later move one to the right.
        """
        others = tuple(
            msgspec.structs.replace(other, position=other.position + 1)
            if other.parent == draft.parent and other.position >= draft.position
            else other
            for other in self.milestones
            if other.id != draft.id
        )
        return msgspec.structs.replace(self, milestones=(*others, draft))


def _place(milestone: TreeMilestone) -> tuple[bool, int]:
    return milestone.kind is MilestoneKind.REMAINING_USERS, milestone.position


AudienceResolver: TypeAlias = Callable[[str], tuple[JourneyTree, str]]
"""From an audience's resource name to its milestone: the journey and the milestone's id. Raises NotFound."""

Located: TypeAlias = tuple[JourneyTree, TreeMilestone]
MilestoneKey: TypeAlias = tuple[str, str]
"""A journey's name and the id of one of its milestones."""


class Needed(NamedTuple):
    """A milestone that another one depends on; `is_named`: by an audience that its criteria name."""

    located: Located
    is_named: bool = False


class AudienceCycle(ValueError):
    """An audience depends on itself, possibly through others; refused when written."""


def workspaces_of(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """The workspaces of `accounts/{a}/workspaces/{w}/inputs/{i}`, sorted, each once."""
    return tuple(sorted({name.rpartition("/inputs/")[0] for name in inputs}))


def audiences_in(criterion: Criterion | None) -> Iterator[str]:
    """The audience names in a criterion, in reading order."""
    if criterion is not None:
        yield from (node.name for node in walk(criterion) if isinstance(node, Audience))


def made_of(journey: JourneyTree, milestone_ids: Sequence[str], resolver: AudienceResolver) -> list[Located]:
    """These milestones and all they depend on, in dependency order.

    A milestone depends on its parent, on the sibling before it (and so on all of them) and on the audiences
    that its criteria name, in this journey or in others. Raises AudienceCycle. Time and memory grow with the
    result, not with its depth.
    """
    starts = [(journey, journey.milestone(milestone_id)) for milestone_id in milestone_ids]
    return [located for located, _ in in_dependency_order(starts, resolver)]


def in_dependency_order(
    starts: Sequence[Located], resolver: AudienceResolver
) -> Iterator[tuple[Located, Sequence[Needed]]]:
    """These milestones and all they depend on, each once and after what it needs, which comes with it. See
    `made_of`.
    """
    done: set[MilestoneKey] = set()
    opened: set[MilestoneKey] = set()
    pending: list[tuple[Located, Sequence[Needed] | None]] = [(start, None) for start in reversed(starts)]
    while pending:
        located, needed = pending.pop()
        key = key_of(located)
        if needed is not None:
            opened.discard(key)
            done.add(key)
            yield located, needed
        elif key in opened:
            raise AudienceCycle(f"milestone {key[1]!r} of {key[0]!r} depends on itself")
        elif key not in done:
            opened.add(key)
            needed = tuple(_needed(*located, resolver))
            pending.append((located, needed))
            pending.extend((each.located, None) for each in needed)


def levels_of(starts: Sequence[Located], resolver: AudienceResolver) -> dict[MilestoneKey, int]:
    """The levels of these milestones and of all they depend on: the most audiences on a way that criteria
    make by naming an audience, whose own criteria name another, and so on. 0: they name none. Parents and
    earlier siblings add none of their own. Raises AudienceCycle, and what the resolver raises.
    """
    levels: dict[MilestoneKey, int] = {}
    for located, needed in in_dependency_order(starts, resolver):
        levels[key_of(located)] = level_over(needed, levels)
    return levels


def level_over(needed: Iterable[Needed], levels: Mapping[MilestoneKey, int]) -> int:
    """The level of a milestone, by those of all that it needs."""
    return max((levels[key_of(each.located)] + each.is_named for each in needed), default=0)


def key_of(located: Located) -> MilestoneKey:
    """What a milestone is found by."""
    return located[0].name, located[1].id


def _needed(journey: JourneyTree, milestone: TreeMilestone, resolver: AudienceResolver) -> Iterator[Needed]:
    if milestone.parent is not None:
        yield Needed((journey, journey.milestone(milestone.parent)))
    if (sibling := journey.just_before(milestone)) is not None:
        yield Needed((journey, sibling))
    for name in audiences_in(milestone.criterion):
        referred, milestone_id = resolver(name)
        yield Needed((referred, referred.milestone(milestone_id)), is_named=True)
