"""The users of each milestone: the specification, executed user by user and event by event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import xxhash

from engine.backends.base import EventRecord
from engine.criteria.model import (
    FIRST_SEEN,
    LAST_SEEN,
    USER_ID,
    Aggregate,
    AllOf,
    AnyOf,
    Audience,
    Bucket,
    Compare,
    Consent,
    Criterion,
    Event,
    EventType,
    Identity,
    Not,
    UserAttribute,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
)
from engine.criteria.model import Sequence as SequenceCriterion
from engine.values import Micros, Value
from tests.oracle.history import History, histories
from tests.oracle.times import inside, local_day
from tests.oracle.values import number_passes, passes, shortest_decimal
from tests.oracle.world import Journey, Milestone, World, walk, workspace_of

_GREATER_THAN_ZERO = Compare("greater_than", 0.0)
_HASHES = 1 << 64


class Oracle:
    """Answers questions about a world as seen at one instant (`world.as_of` unless given)."""

    def __init__(self, world: World, as_of: Micros | None = None) -> None:
        self.world = world
        self.now = world.as_of if as_of is None else as_of
        self.users = histories(world)
        self._places: dict[str, tuple[Journey, Milestone | None, tuple[Milestone, ...]]] = {}
        for journey in world.journeys:
            self._place_split(journey, None, journey.milestones)
        self._memo: dict[tuple[str, str], bool] = {}

    def _place_split(self, journey: Journey, parent: Milestone | None, split: tuple[Milestone, ...]) -> None:
        for position, milestone in enumerate(split):
            self._places[milestone.id] = (journey, parent, split[:position])
            self._place_split(journey, milestone, milestone.children)

    # --- milestones -----------------------------------------------------------------------------------------

    def start(self, journey: Journey) -> frozenset[str]:
        """Users belonging to at least one of the journey's inputs."""
        inputs = set(self.world.inputs_of(journey))
        return frozenset(user_id for user_id, user in self.users.items() if user.inputs & inputs)

    def members(self, milestone_id: str) -> frozenset[str]:
        """The users of a milestone, which are those of its audience."""
        milestone = self._milestone(milestone_id)
        journey = self._places[milestone_id][0]
        return frozenset(u for u in self.start(journey) if self._is_member(self.users[u], milestone))

    def draws(self, milestone_id: str) -> frozenset[str]:
        """The users a milestone draws from: its parent's, without those that siblings before it take."""
        journey, parent, siblings_before = self._places[milestone_id]
        population = self.start(journey) if parent is None else self.members(parent.id)
        for sibling in siblings_before:
            if sibling.criteria is not None:
                population -= self.matching(sibling.criteria, journey)
        return population

    def labelled(self, milestone_id: str) -> list[tuple[str, frozenset[str]]]:
        """Each label in a milestone's criteria, in reading order, with the users of its criterion among
        those the milestone draws from."""
        criteria, journey = self._milestone(milestone_id).criteria, self._places[milestone_id][0]
        nodes = [] if criteria is None else [node for node in nodes_of(criteria) if node.label]
        population = self.draws(milestone_id)
        return [(node.label, population & self.matching(node, journey)) for node in nodes]

    def all_members(self) -> dict[str, frozenset[str]]:
        """The users of every milestone, by milestone id."""
        return {m.id: self.members(m.id) for journey in self.world.journeys for m in walk(journey.milestones)}

    def matching(self, criterion: Criterion, journey: Journey) -> frozenset[str]:
        """The set a criterion denotes within a journey's users."""
        return frozenset(u for u in self.start(journey) if self.satisfies(self.users[u], criterion, journey))

    def _milestone(self, milestone_id: str) -> Milestone:
        journey = self._places[milestone_id][0]
        return next(m for m in walk(journey.milestones) if m.id == milestone_id)

    def _is_member(self, user: History, milestone: Milestone) -> bool:
        known = self._memo.get((user.user_id, milestone.id))
        if known is None:
            known = self._decide_member(user, milestone)
            self._memo[user.user_id, milestone.id] = known
        return known

    def _decide_member(self, user: History, milestone: Milestone) -> bool:
        journey, parent, siblings_before = self._places[milestone.id]
        if parent is None:
            if not user.inputs & set(self.world.inputs_of(journey)):
                return False
        elif not self._is_member(user, parent):
            return False
        for sibling in siblings_before:
            if sibling.criteria is not None and self.satisfies(user, sibling.criteria, journey):
                return False
        return milestone.criteria is None or self.satisfies(user, milestone.criteria, journey)

    # --- criteria -------------------------------------------------------------------------------------------

    def satisfies(self, user: History, criterion: Criterion, journey: Journey) -> bool:
        """Whether a criterion is true for one of the journey's users."""
        inputs = self.world.inputs_of(journey)
        match criterion:
            case AllOf():
                return all(self.satisfies(user, child, journey) for child in criterion.criteria)
            case AnyOf():
                return any(self.satisfies(user, child, journey) for child in criterion.criteria)
            case Not():
                return not self.satisfies(user, criterion.criterion, journey)
            case UserAttribute():
                return any(
                    passes(criterion.test, v, self.now) for v in self._values(user, criterion.key, inputs)
                )
            case Event():
                return self._event_holds(user, criterion, inputs)
            case SequenceCriterion():
                return self._sequence_holds(user, criterion, inputs)
            case Audience():
                milestone = self._milestone(criterion.name.rpartition("/audiences/")[2])
                return self._is_member(user, milestone)
            case Consent():
                return user.consents.get((criterion.regulation, criterion.purpose)) == criterion.state
            case Identity():
                return passes(criterion.test, user.identities.get(criterion.type), self.now)
            case Bucket():
                return _in_bucket(criterion, user.user_id)

    def _values(self, user: History, key: str, inputs: tuple[str, ...]) -> list[Value | None]:
        """The values of an attribute in the workspaces that the inputs belong to."""
        if key == FIRST_SEEN:
            return [min(user.seen_times(inputs), default=None)]
        if key == USER_ID:
            return [user.user_id]
        if key == LAST_SEEN:
            return [max(user.seen_times(inputs), default=None)]
        return [user.attributes.get((workspace, key)) for workspace in {workspace_of(i) for i in inputs}]

    # --- events ---------------------------------------------------------------------------------------------

    def _within(self, window: Window | None, user: History) -> list[EventRecord]:
        """A user's events in a window and within the account's retention."""
        retention = self.world.event_retention
        return [
            event
            for event in user.events
            if inside(window, event.time, self.now, self.world.time_zone)
            and (not retention or event.time >= self.now - retention)
        ]

    def _selected(
        self,
        event: EventRecord,
        name: str,
        type_: EventType | None,
        where: Where | None,
        inputs: tuple[str, ...],
    ) -> bool:
        return (
            event.input in inputs
            and name in ("", event.name)
            and type_ in (None, event.type)
            and (where is None or self._where_holds(where, event))
        )

    def _where_holds(self, where: Where, event: EventRecord) -> bool:
        match where:
            case WhereAll():
                return all(self._where_holds(c, event) for c in where.conditions)
            case WhereAny():
                return any(self._where_holds(c, event) for c in where.conditions)
            case WhereNot():
                return not self._where_holds(where.condition, event)
            case WhereAttribute():
                return passes(where.test, event.attributes.get(where.key), self.now)

    def aggregates(self, criterion: Event, inputs: tuple[str, ...]) -> list[Fraction]:
        """The distinct numbers that users have for the aggregate of a criterion, ascending."""
        found = {self._aggregate(user, criterion, inputs) for user in self.users.values()}
        return sorted(number for number in found if number is not None)

    def _event_holds(self, user: History, criterion: Event, inputs: tuple[str, ...]) -> bool:
        number = self._aggregate(user, criterion, inputs)
        return number is not None and number_passes(criterion.test or _GREATER_THAN_ZERO, number)

    def _aggregate(self, user: History, criterion: Event, inputs: tuple[str, ...]) -> Fraction | None:
        events = [
            event
            for event in self._within(criterion.window, user)
            if self._selected(
                event, criterion.name, criterion.type, criterion.where, criterion.inputs or inputs
            )
        ]
        return aggregate_of(events, criterion.aggregate, criterion.of, self.world.time_zone)

    def _sequence_holds(self, user: History, criterion: SequenceCriterion, inputs: tuple[str, ...]) -> bool:
        events = self._within(criterion.window, user)
        times = [
            [e.time for e in events if self._selected(e, s.name, s.type, s.where, s.inputs or inputs)]
            for s in criterion.steps
        ]
        return any(
            continues(times[1:], first, None if criterion.within is None else first + criterion.within)
            for first in times[0]
        )


def nodes_of(criterion: Criterion) -> Iterator[Criterion]:
    """A criterion and all below it, in reading order."""
    yield criterion
    match criterion:
        case AllOf() | AnyOf():
            for child in criterion.criteria:
                yield from nodes_of(child)
        case Not():
            yield from nodes_of(criterion.criterion)
        case _:
            return


def aggregate_of(
    events: Sequence[EventRecord], aggregate: Aggregate, of: str, time_zone: str
) -> Fraction | None:
    """The number computed over events in the order of their arrival; None when it is undefined."""
    if aggregate is Aggregate.COUNT:
        return Fraction(len(events))
    if aggregate is Aggregate.DISTINCT_DAYS:
        return Fraction(len({local_day(event.time, time_zone) for event in events}))
    if aggregate is Aggregate.DISTINCT:
        values = [event.attributes[of] for event in events if of in event.attributes]
        return Fraction(len({(type(value), value) for value in values}))
    numbers = [
        (event.time, shortest_decimal(value))
        for event in events
        if isinstance(value := event.attributes.get(of), float)
    ]
    return _checkpoint_numbers(aggregate, numbers)


def _checkpoint_numbers(aggregate: Aggregate, numbers: list[tuple[Micros, Fraction]]) -> Fraction | None:
    """Aggregates of (time, number) pairs in the order of arrival."""
    if aggregate is Aggregate.SUM:
        return sum((number for _, number in numbers), Fraction(0))
    if not numbers:
        return None
    match aggregate:
        case Aggregate.AVERAGE:
            return sum((number for _, number in numbers), Fraction(0)) / len(numbers)
        case Aggregate.MIN:
            return min(number for _, number in numbers)
        case Aggregate.MAX:
            return max(number for _, number in numbers)
        case Aggregate.FIRST:
            earliest = min(time for time, _ in numbers)
            return next(number for time, number in numbers if time == earliest)
        case Aggregate.LAST:
            latest = max(time for time, _ in numbers)
            return [number for time, number in numbers if time == latest][-1]
        case _:
            raise AssertionError(f"{aggregate} is not an aggregate of numbers")


def continues(steps: Sequence[Sequence[Micros]], after: Micros, until: Micros | None) -> bool:
    """Whether the remaining steps can be taken, each strictly later than the one before, none past
    `until`: every way is tried."""
    if not steps:
        return True
    return any(
        continues(steps[1:], time, until)
        for time in steps[0]
        if time > after and (until is None or time <= until)
    )


def _in_bucket(criterion: Bucket, user_id: str) -> bool:
    hashed = xxhash.xxh3_64_intdigest(criterion.salt.encode() + b"\x00" + user_id.encode())
    percent = Fraction(hashed, _HASHES) * 100
    return shortest_decimal(criterion.from_percent) <= percent < shortest_decimal(criterion.to_percent)
