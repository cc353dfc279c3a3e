"""A store of a few users in plain Python, and plans executed over it as their steps are defined."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from zoneinfo import ZoneInfo

from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate, ConsentState, EventType
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import hold_instant
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    Intersection,
    Interval,
    Plan,
    Predicate,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Union,
    Universe,
    UserIdMatch,
)
from engine.values import Value, bucket_of

IOS = "accounts/a/workspaces/phone/inputs/ios"
ANDROID = "accounts/a/workspaces/phone/inputs/android"
WEB = "accounts/a/workspaces/site/inputs/web"
INPUTS = (ANDROID, IOS, WEB)


@dataclass(frozen=True)
class Happened:
    """One event; later ones of the same user arrived later."""

    input: str
    name: str
    time: int
    attributes: dict[str, Value] = field(default_factory=dict)
    type: EventType = EventType.CUSTOM


@dataclass(frozen=True)
class User:
    """Everything known about one user. `updates` are the times of user updates, per input."""

    events: tuple[Happened, ...] = ()
    updates: dict[str, tuple[int, ...]] = field(default_factory=dict)
    attributes: dict[str, dict[str, Value]] = field(default_factory=dict)
    identities: dict[str, str] = field(default_factory=dict)
    consents: dict[tuple[str, str], ConsentState] = field(default_factory=dict)

    def seen(self, inputs: Sequence[str]) -> list[int]:
        """All seen times through the inputs."""
        signs = [event.time for event in self.events if event.input in inputs]
        return signs + [time for name in inputs for time in self.updates.get(name, ())]


World = dict[str, User]


def evaluate(plan: Plan, world: World) -> list[set[str]]:
    """The set of each root."""
    sets: list[set[str]] = []
    for step in plan.steps:
        match step:
            case Empty():
                found: set[str] = set()
            case Universe():
                found = {name for name, user in world.items() if user.seen(step.inputs)}
            case Intersection():
                found = set.intersection(*(sets[operand] for operand in step.operands))
            case Union():
                found = set().union(*(sets[operand] for operand in step.operands))
            case Difference():
                found = sets[step.minuend] - sets[step.subtrahend]
            case _:
                found = {name for name, user in world.items() if holds(step, name, user)}
        sets.append(found)
    return [sets[root] for root in plan.roots]


def holds(leaf: Predicate, name: str, user: User) -> bool:
    """The leaf is true for one user."""
    match leaf:
        case AttributeMatch():
            values = (user.attributes.get(workspace, {}).get(leaf.key) for workspace in leaf.workspaces)
            return any(value is not None and matcher_of(leaf.test).passes(value) for value in values)
        case SeenMatch():
            signs = user.seen(leaf.inputs)
            return bool(signs) and hold_instant(leaf.test.ranges, max(signs) if leaf.last else min(signs))
        case IdentityMatch():
            identity = user.identities.get(leaf.type)
            return identity is not None and matcher_of(leaf.test).passes(identity)
        case UserIdMatch():
            return matcher_of(leaf.test).passes(name)
        case ConsentMatch():
            return user.consents.get((leaf.regulation, leaf.purpose)) is leaf.state
        case BucketMatch():
            return leaf.first <= bucket_of(leaf.salt, name) <= leaf.last
        case SequenceMatch():
            return _in_sequence(leaf, user)
        case EventMatch():
            result = _aggregate(leaf, [event for event in user.events if selected(leaf.selection, event)])
            return result is not None and any(_in_interval(i, result) for i in leaf.intervals)


def selected(selection: EventSelection, event: Happened) -> bool:
    return (
        event.input in selection.inputs
        and selection.name in ("", event.name)
        and selection.type in (None, event.type)
        and selection.time.holds(event.time)
        and (selection.where is None or passes(selection.where, event))
    )


def passes(where: RowFilter, event: Happened) -> bool:
    match where:
        case WhereAll():
            return all(passes(condition, event) for condition in where.conditions)
        case WhereAny():
            return any(passes(condition, event) for condition in where.conditions)
        case WhereNot():
            return not passes(where.condition, event)
        case WhereAttribute():
            value = event.attributes.get(where.key)
            return value is not None and matcher_of(where.test).passes(value)


def _exact(number: float) -> Decimal:
    return Decimal(repr(number))


def _in_interval(interval: Interval, number: Decimal) -> bool:
    low = None if interval.low is None else _exact(interval.low)
    high = None if interval.high is None else _exact(interval.high)
    above = low is None or low < number or (interval.low_included and low == number)
    return above and (high is None or number < high or (interval.high_included and high == number))


def _aggregate(leaf: EventMatch, events: list[Happened]) -> Decimal | None:
    of = [(event.time, event.attributes[leaf.of]) for event in events if leaf.of in event.attributes]
    numbers = [(time, _exact(value)) for time, value in of if type(value) is float]
    values = [number for _, number in numbers]
    match leaf.aggregate:
        case Aggregate.COUNT:
            return Decimal(len(events)) or None
        case Aggregate.DISTINCT_DAYS:
            zone = ZoneInfo(leaf.time_zone)
            epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
            moments = (epoch + dt.timedelta(microseconds=event.time) for event in events)
            return Decimal(len({moment.astimezone(zone).date() for moment in moments})) or None
        case Aggregate.DISTINCT:
            return Decimal(len({(type(value), value) for _, value in of})) or None
    if not numbers:
        return None
    in_order = sorted(numbers, key=lambda timed: timed[0])
    return {
        Aggregate.SUM: sum(values, Decimal()),
        Aggregate.AVERAGE: sum(values, Decimal()) / len(values),
        Aggregate.MIN: min(values),
        Aggregate.MAX: max(values),
        Aggregate.FIRST: in_order[0][1],
        Aggregate.LAST: in_order[-1][1],
    }[leaf.aggregate]


def _in_sequence(leaf: SequenceMatch, user: User) -> bool:
    for start in user.events:
        if not selected(leaf.steps[0], start):
            continue
        reached: int | None = start.time
        for step in leaf.steps[1:]:
            later = [
                e.time for e in user.events if selected(step, e) and reached is not None and e.time > reached
            ]
            reached = min(later, default=None)
        if reached is not None and (leaf.within is None or reached - start.time <= leaf.within):
            return True
    return False
