"""Whole journeys as documents: what `ApplyJourney` takes and what a version keeps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from engine.criteria.model import Criterion
from engine.resources.records import Journey, Milestone, MilestoneKind

DOCUMENT_FIELD = "document"


class MilestoneDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A milestone with those below it, in order. Exactly one of `criteria` and `remaining_users` is set.
    `display_name` "" = the id, or "Remaining users".
    """

    id: str
    display_name: str = ""
    criteria: Criterion | None = None
    remaining_users: bool = False
    children: tuple[MilestoneDocument, ...] = ()

    @property
    def kind(self) -> MilestoneKind:
        """How it selects its users."""
        return MilestoneKind.REMAINING_USERS if self.remaining_users else MilestoneKind.CRITERIA


class JourneyDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A journey with its milestones. `inputs` are resource names; none = all, present and future.
    `display_name` "" = the id.
    """

    journey: str
    display_name: str = ""
    inputs: tuple[str, ...] = ()
    milestones: tuple[MilestoneDocument, ...] = ()


class Placed(msgspec.Struct, frozen=True):
    """A milestone of a document: its path, its parent's id ("" = the start), its position among its siblings,
    and its level, from 1.
    """

    path: str
    parent: str
    position: int
    level: int
    milestone: MilestoneDocument


def placed(document: JourneyDocument) -> Iterator[Placed]:
    """Every milestone of the document, parents before children and siblings in order."""
    yield from _placed(document.milestones, f"{DOCUMENT_FIELD}.milestones", "", 1)


def _placed(split: Sequence[MilestoneDocument], path: str, parent: str, level: int) -> Iterator[Placed]:
    for position, milestone in enumerate(split):
        own = f"{path}[{position}]"
        yield Placed(own, parent, position, level, milestone)
        yield from _placed(milestone.children, f"{own}.children", milestone.id, level + 1)


def document_of(journey: Journey, milestones: Iterable[Milestone]) -> JourneyDocument:
    """The document of a journey's records."""
    splits: dict[str, list[Milestone]] = {}
    for milestone in sorted(milestones, key=lambda each: each.position):
        splits.setdefault(milestone.parent, []).append(milestone)
    return JourneyDocument(
        journey=_last_id(journey.name),
        display_name=journey.display_name,
        inputs=journey.inputs,
        milestones=_split_of(splits, ""),
    )


def _split_of(splits: Mapping[str, Sequence[Milestone]], parent: str) -> tuple[MilestoneDocument, ...]:
    return tuple(
        MilestoneDocument(
            id=_last_id(milestone.name),
            display_name=milestone.display_name,
            criteria=milestone.criteria,
            remaining_users=milestone.kind is MilestoneKind.REMAINING_USERS,
            children=_split_of(splits, milestone.name),
        )
        for milestone in splits.get(parent, ())
    )


def _last_id(name: str) -> str:
    return name.rpartition("/")[2]
