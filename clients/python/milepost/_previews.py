"""Documents of journeys as the flat list of milestones that PreviewJourney takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from milepost import names
from milepost.v1.audience_service_pb2 import PreviewMilestone
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    MilestoneDocument,
)

_IN_REQUEST = re.compile(r"^milestones\[(\d+)\]")


def preview_milestones(
    split: Sequence[MilestoneDocument], path: str = "milestones", parent: str = ""
) -> Iterator[tuple[str, PreviewMilestone]]:
    """The milestones of a split and all below them, each with its path in the document."""
    for index, milestone in enumerate(split):
        default = names.REMAINING_USERS if milestone.remaining_users else milestone.id
        place = f"{path}[{index}]"
        yield (
            place,
            PreviewMilestone(
                id=milestone.id,
                parent=parent,
                display_name=milestone.display_name or default,
                kind=MILESTONE_KIND_REMAINING_USERS if milestone.remaining_users else MILESTONE_KIND_CRITERIA,
                criteria=milestone.criteria if milestone.HasField("criteria") else None,
            ),
        )
        yield from preview_milestones(milestone.children, f"{place}.children", milestone.id)


def in_document(field: str, paths: Sequence[str]) -> str:
    """The path in the document of a field of the request; `paths` are those of the request's milestones."""
    return _IN_REQUEST.sub(lambda found: paths[int(found[1])], field)
