"""Which criteria were true and which were false for users who reached their milestones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from milepost.rules.criteria import leaves
from milepost.rules.explaining import verdicts
from milepost.rules.model import TestedJourney
from milepost.v1.audience_service_pb2 import MilestoneVerdict

OUTCOMES = 2
"""Of a criterion: true and false."""


@dataclass
class Outcomes:
    """What a criterion was for users who reached its milestone, which is `journey/milestone`."""

    position: str
    milestone: str
    description: str = ""
    seen: set[bool] = field(default_factory=set)

    @property
    def missing(self) -> str:
        """What it never was; empty when it was both."""
        if not self.seen:
            return "never asked"
        return "" if len(self.seen) == OUTCOMES else f"never {'false' if True in self.seen else 'true'}"


class Coverage:
    """The outcomes of every criterion that combines no others, over all files. A journey that several files
    test counts once.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Outcomes] = {}
        self._by_milestone: dict[tuple[str, str], list[Outcomes]] = {}

    def add_journey(self, journey: TestedJourney) -> None:
        """Expects both outcomes of each of its criteria."""
        for milestone, _ in journey.milestones():
            if milestone.criteria is None:
                continue
            name = f"{journey.document.id}/{milestone.id}"
            of_milestone = self._by_milestone.setdefault((journey.position(milestone.id, ""), name), [])
            for path in leaves(milestone.criteria):
                key = (journey.position(milestone.id, path), name)
                if key not in self._found:
                    self._found[key] = Outcomes(*key)
                    of_milestone.append(self._found[key])

    def is_complete(self, journey: TestedJourney, milestone: str) -> bool:
        """Whether every criterion of a milestone had both outcomes: it need not be asked about again."""
        where = self._by_milestone.get(
            (journey.position(milestone, ""), f"{journey.document.id}/{milestone}")
        )
        return all(not each.missing for each in where or ())

    def add(self, journey: TestedJourney, milestone: str, verdict: MilestoneVerdict) -> None:
        """Counts what the criteria of a milestone are for one user, if the user reached it: is in its parent,
        and no sibling before it took the user.
        """
        if not verdict.HasField("criteria") or not verdict.criteria.decisive:
            return
        for criterion, _ in verdicts(verdict.criteria):
            name = f"{journey.document.id}/{milestone}"
            found = self._found.get((journey.position(milestone, criterion.path), name))
            # What combines no criteria at all, such as an empty `all_of`, has one outcome.
            if found is not None:
                found.description = criterion.description
                found.seen.add(criterion.true_for_user)

    @property
    def criteria(self) -> int:
        """How many criteria there are."""
        return len(self._found)

    @property
    def outcomes(self) -> int:
        """How many outcomes were seen."""
        return sum(len(each.seen) for each in self._found.values())

    @property
    def outcomes_max(self) -> int:
        """How many outcomes there are."""
        return OUTCOMES * len(self._found)

    @property
    def percent(self) -> float:
        """The share of the outcomes that were seen; 100 where there are no criteria."""
        return 100.0 * self.outcomes / self.outcomes_max if self._found else 100.0

    def missing(self) -> Iterator[Outcomes]:
        """The criteria that lack an outcome."""
        return (each for each in self._found.values() if each.missing)
