"""Why a user is in a milestone or not, in lines with the places of the criteria."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from milepost import names
from milepost.rules.model import TestedJourney
from milepost.v1.audience_service_pb2 import (
    CriterionVerdict,
    ExplainMembershipResponse,
    MilestoneVerdict,
)


def reasons(
    target: str, journey: TestedJourney, explained: Callable[[str], ExplainMembershipResponse]
) -> Iterator[str]:
    """Why a user is in a milestone `journey/milestone` or not: the milestones on the way to it, down to the
    first that the user is not in, with each of their criteria that combines no others. Where a sibling took
    the user, or none did and the user remained, the siblings follow.
    """
    answer = explained(target)
    if not answer.in_journey:
        yield "nothing came for this user through the journey's inputs"
        return
    for milestone in answer.milestones:
        yield from _of_milestone(milestone, journey)
        for sibling in _siblings_that_matter(milestone, journey):
            other = explained(f"{journey.document.id}/{sibling}")
            yield from _of_milestone(other.milestones[-1], journey)
        if not milestone.member:
            return


def _siblings_that_matter(milestone: MilestoneVerdict, journey: TestedJourney) -> Iterator[str]:
    """The ids of those that decided about a user: the one that took the user, or all that did not take one
    who remained.
    """
    if milestone.taken_by:
        yield names.last_id(milestone.taken_by)
    elif milestone.member and not milestone.HasField("criteria"):
        for sibling in journey.split_of(names.last_id(milestone.milestone)):
            if sibling.criteria is not None:
                yield sibling.id


def _of_milestone(milestone: MilestoneVerdict, journey: TestedJourney) -> Iterator[str]:
    milestone_id = names.last_id(milestone.milestone)
    is_in = "in" if milestone.member else "not in"
    taken = f": taken by {names.last_id(milestone.taken_by)}" if milestone.taken_by else ""
    yield f"{journey.position(milestone_id, '')}: {is_in} {milestone_id}{taken}"
    if milestone.HasField("criteria"):
        for criterion, decides in verdicts(milestone.criteria):
            yield "  " + _line(criterion, decides, journey.position(milestone_id, criterion.path))


def _line(criterion: CriterionVerdict, decides: bool, position: str) -> str:
    seen = f", seen: {criterion.seen}" if criterion.seen else ""
    verdict = "true" if criterion.true_for_user else "false"
    return f"{position}: {criterion.description}: {verdict}{seen}{' (decides)' if decides else ''}"


def verdicts(criterion: CriterionVerdict, decides: bool = True) -> Iterator[tuple[CriterionVerdict, bool]]:
    """Each criterion that combines no others, and whether it alone decides the membership."""
    decides = decides and criterion.decisive
    if not criterion.children:
        yield criterion, decides
    for child in criterion.children:
        yield from verdicts(child, decides)
