"""Steps that differ in nothing but the instant they are of, such as a window of 30 days now and later."""

from __future__ import annotations

from msgspec.structs import replace

from engine.criteria.conditions import WhereAttribute, mapped
from engine.criteria.operators import ResolvedTest
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
    SeenMatch,
    SequenceMatch,
    Step,
    TimeRange,
    Union,
    Universe,
    UserIdMatch,
    encode_step,
)
from engine.values import Micros


def family_of(step: Step) -> bytes:
    """A name that a step shares with those that it becomes when time passes; empty for a step that names no
    instant. Others may share it too: the length of a window is in the name, its place is not.
    """
    match step:
        case EventMatch():
            still: Step = replace(step, selection=_still_selection(step.selection))
        case SequenceMatch():
            still = replace(step, steps=tuple(map(_still_selection, step.steps)))
        case SeenMatch() | AttributeMatch() | IdentityMatch():
            still = replace(step, test=_still_test(step.test))
        case Universe() | Empty() | UserIdMatch() | ConsentMatch() | BucketMatch():
            return b""
        case Intersection() | Union() | Difference():
            return b""
    family = encode_step(still)
    return b"" if family == encode_step(step) else family


def _still_selection(selection: EventSelection) -> EventSelection:
    where = selection.where
    if where is not None:
        where = mapped(where, lambda each: WhereAttribute(key=each.key, test=_still_test(each.test)))
    return replace(selection, time=_still(selection.time, _first_of(selection.time)), where=where)


def _still_test(test: ResolvedTest) -> ResolvedTest:
    if not isinstance(test, InstantRange) or not test.ranges:
        return test
    first = next((bound for bound in map(_first_of, test.ranges) if bound), 0)
    return InstantRange(tuple(_still(each, first) for each in test.ranges))


def _first_of(time: TimeRange) -> Micros:
    """The start, or the end of a range without one."""
    return (time.end or 0) if time.start is None else time.start


def _still(time: TimeRange, first: Micros) -> TimeRange:
    """The range, relative to an instant."""
    return TimeRange(
        None if time.start is None else time.start - first, None if time.end is None else time.end - first
    )
