"""Rule tests: what a file of them says, with the place of each part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from milepost.documents.places import Places
from milepost.journeys import JourneyDocument, MilestoneDocument
from milepost.v1.data_pb2 import Event, UserUpdate


@dataclass(frozen=True)
class TestedJourney:
    """A journey under test, and where it is written. `path` is its place in that document."""

    document: JourneyDocument
    places: Places
    path: str = ""

    def milestones(self) -> Iterator[tuple[MilestoneDocument, str]]:
        """Every milestone with the path of its place, parents before children."""
        start = f"{self.path}.milestones" if self.path else "milestones"
        yield from _with_paths(self.document.milestones, start)

    def split_of(self, milestone: str) -> tuple[MilestoneDocument, ...]:
        """A milestone and its siblings."""
        splits = (self.document.milestones, *(each.children for each, _ in self.milestones()))
        return next(split for split in splits if any(each.id == milestone for each in split))

    def position(self, milestone: str, path: str) -> str:
        """`journey.yaml:3:12` for a part of a milestone, such as `criteria.not`."""
        found = next(place for each, place in self.milestones() if each.id == milestone)
        return self.places.position(f"{found}.{path}" if path else found)


def _with_paths(split: tuple[MilestoneDocument, ...], path: str) -> Iterator[tuple[MilestoneDocument, str]]:
    for index, milestone in enumerate(split):
        place = f"{path}[{index}]"
        yield milestone, place
        yield from _with_paths(milestone.children, f"{place}.children")


@dataclass(frozen=True)
class Change:
    """An event or a user update, and the instant it comes at. `path` is its place."""

    time: datetime
    message: Event | UserUpdate
    path: str


@dataclass(frozen=True)
class Membership:
    """That a user is, or is not, in a milestone `journey/milestone`."""

    user: str
    milestone: str
    member: bool
    path: str


@dataclass(frozen=True)
class Members:
    """The only members of a milestone `journey/milestone`."""

    milestone: str
    users: frozenset[str]
    path: str


@dataclass(frozen=True)
class Size:
    """The number of users of a milestone `journey/milestone`."""

    milestone: str
    users: int
    path: str


@dataclass(frozen=True)
class Expectation:
    """What is expected at one instant. `written` is how the file writes it."""

    at: datetime
    written: str
    checks: tuple[Membership, ...]
    members: tuple[Members, ...]
    sizes: tuple[Size, ...]


@dataclass(frozen=True)
class Scenario:
    """One test: data in order of time, and expectations in order of time."""

    name: str
    path: str
    users: frozenset[str]
    changes: tuple[Change, ...]
    expectations: tuple[Expectation, ...]


@dataclass(frozen=True)
class RuleTests:
    """A file of tests. Names of inputs and audiences in criteria are of `account`; `audiences` says which
    milestone an audience's name stands for.
    """

    places: Places
    account: str
    time_zone: str
    inputs: tuple[str, ...]
    journeys: tuple[TestedJourney, ...]
    audiences: Mapping[str, str]
    shared: tuple[Change, ...]
    """The data of the users of all tests, in order of time."""
    scenarios: tuple[Scenario, ...]

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.places.file
