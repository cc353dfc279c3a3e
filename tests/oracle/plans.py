"""Executes plans by brute force, user by user.

It sits between the oracle and a backend. When engine and oracle differ, it shows whether the planner or the
backend is at fault, and it tests the planner's passes without a store.
"""

from __future__ import annotations

from fractions import Fraction

import xxhash

from engine.backends.base import EventRecord
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate
from engine.plan.model import (
    AttributeMatch,
    BucketMatch,
    ConsentMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    IdentityMatch,
    InstantRange,
    Intersection,
    Interval,
    NumberRange,
    Plan,
    ResolvedTest,
    RowFilter,
    SeenMatch,
    SequenceMatch,
    Step,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
)
from engine.values import Micros, Value
from tests.oracle.evaluate import aggregate_of, continues
from tests.oracle.history import History
from tests.oracle.values import passes, shortest_decimal

UserSet = frozenset[str]


def root_sets(plan: Plan, users: dict[str, History]) -> list[UserSet]:
    """The set of each root of the plan, over the users of a world (`history.histories`)."""
    sets: list[UserSet] = []
    for step in plan.steps:
        sets.append(_set_of(step, sets, users))
    return [sets[root] for root in plan.roots]


def _set_of(step: Step, sets: list[UserSet], users: dict[str, History]) -> UserSet:
    match step:
        case Empty():
            return frozenset()
        case Intersection():
            return sets[step.operands[0]].intersection(*(sets[operand] for operand in step.operands[1:]))
        case Union():
            return frozenset().union(*(sets[operand] for operand in step.operands))
        case Difference():
            return sets[step.minuend] - sets[step.subtrahend]
        case _:
            return frozenset(user_id for user_id, user in users.items() if _holds(step, user))


def _holds(step: Step, user: History) -> bool:
    match step:
        case Universe():
            return not user.inputs.isdisjoint(step.inputs)
        case AttributeMatch():
            values = [user.attributes.get((workspace, step.key)) for workspace in step.workspaces]
            return any(resolved_test_passes(step.test, value) for value in values)
        case SeenMatch():
            times = user.seen_times(step.inputs)
            return bool(times) and _in_ranges(step.test.ranges, max(times) if step.last else min(times))
        case IdentityMatch():
            return resolved_test_passes(step.test, user.identities.get(step.type))
        case UserIdMatch():
            return resolved_test_passes(step.test, user.user_id)
        case ConsentMatch():
            return user.consents.get((step.regulation, step.purpose)) == step.state
        case BucketMatch():
            hashed = xxhash.xxh3_64_intdigest(step.salt.encode() + b"\x00" + user.user_id.encode())
            return step.first <= hashed <= step.last
        case EventMatch():
            return _event_holds(step, user)
        case SequenceMatch():
            return _sequence_holds(step, user)
        case _:
            raise AssertionError(f"{step} is not a predicate")


def _event_holds(step: EventMatch, user: History) -> bool:
    events = [event for event in user.events if _selected(step.selection, event)]
    if step.aggregate not in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS):
        kinds = object if step.aggregate is Aggregate.DISTINCT else float
        events = [event for event in events if isinstance(event.attributes.get(step.of), kinds)]
        events = [event for event in events if step.of in event.attributes]
    number = aggregate_of(events, step.aggregate, step.of, step.time_zone)
    return bool(events) and number is not None and _in_intervals(step.intervals, number)


def _sequence_holds(step: SequenceMatch, user: History) -> bool:
    times = [[event.time for event in user.events if _selected(s, event)] for s in step.steps]
    within = step.within
    return any(continues(times[1:], first, None if within is None else first + within) for first in times[0])


def _selected(selection: EventSelection, event: EventRecord) -> bool:
    return (
        event.input in selection.inputs
        and selection.name in ("", event.name)
        and selection.type in (None, event.type)
        and _in_ranges((selection.time,), event.time)
        and (selection.where is None or _row_passes(selection.where, event))
    )


def _row_passes(where: RowFilter, event: EventRecord) -> bool:
    match where:
        case WhereAll():
            return all(_row_passes(condition, event) for condition in where.conditions)
        case WhereAny():
            return any(_row_passes(condition, event) for condition in where.conditions)
        case WhereNot():
            return not _row_passes(where.condition, event)
        case WhereAttribute():
            return resolved_test_passes(where.test, event.attributes.get(where.key))


def resolved_test_passes(test: ResolvedTest, value: Value | None) -> bool:
    """Whether a value passes a test of a plan."""
    if isinstance(test, NumberRange):
        return isinstance(value, float) and _in_intervals(test.intervals, shortest_decimal(value))
    if isinstance(test, InstantRange):
        return type(value) is int and _in_ranges(test.ranges, value)
    return passes(test, value, 0)


def _in_ranges(ranges: tuple[TimeRange, ...], time: Micros) -> bool:
    return any((r.start is None or r.start <= time) and (r.end is None or time < r.end) for r in ranges)


def _in_intervals(intervals: tuple[Interval, ...], number: Fraction) -> bool:
    return any(_above(interval, number) and _below(interval, number) for interval in intervals)


def _above(interval: Interval, number: Fraction) -> bool:
    if interval.low is None:
        return True
    low = shortest_decimal(interval.low)
    return number > low or (interval.low_included and number == low)


def _below(interval: Interval, number: Fraction) -> bool:
    if interval.high is None:
        return True
    high = shortest_decimal(interval.high)
    return number < high or (interval.high_included and number == high)
