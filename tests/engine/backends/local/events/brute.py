"""A brute-force model of the event tables, row by row in plain Python."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from engine.backends.local.events import (
    EventRow,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    RowCondition,
)
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate
from engine.criteria.operators import matcher_of
from engine.criteria.ranges import Interval, TimeRange
from engine.values import kind_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shortest(number: float) -> Fraction:
    """The shortest decimal of a double."""
    return Fraction(repr(number))


def takes_part(row: EventRow, selection: ResolvedSelection) -> bool:
    return (
        row.input_number in selection.inputs
        and selection.name in (None, row.name_number)
        and selection.type in (None, row.type)
        and _inside(row.time, selection.time)
        and (selection.where is None or holds(selection.where, row))
    )


def _inside(time: int, span: TimeRange) -> bool:
    return (span.start is None or span.start <= time) and (span.end is None or time < span.end)


def holds(condition: RowCondition, row: EventRow) -> bool:
    match condition:
        case WhereAll(conditions=conditions):
            return all(holds(child, row) for child in conditions)
        case WhereAny(conditions=conditions):
            return any(holds(child, row) for child in conditions)
        case WhereNot(condition=child):
            return not holds(child, row)
        case WhereAttribute(key=attribute, test=test):
            matcher = matcher_of(test)
            value = row.attributes.get(attribute)
            return value is not None and kind_of(value) in matcher.kinds and matcher.passes(value)


def in_intervals(number: Fraction, intervals: Iterable[Interval]) -> bool:
    return any(_in_interval(number, interval) for interval in intervals)


def _in_interval(number: Fraction, interval: Interval) -> bool:
    if interval.low is not None:
        low = shortest(interval.low)
        if number < low or (number == low and not interval.low_included):
            return False
    if interval.high is not None:
        high = shortest(interval.high)
        if number > high or (number == high and not interval.high_included):
            return False
    return True


def aggregate(rows: Sequence[EventRow], step: ResolvedEventMatch) -> Fraction | None:
    """Over one user's rows; None when no row takes part."""
    rows = sorted((row for row in rows if takes_part(row, step.selection)), key=_by_time)
    match step.aggregate:
        case Aggregate.COUNT:
            return Fraction(len(rows)) if rows else None
        case Aggregate.DISTINCT_DAYS:
            zone = ZoneInfo(step.time_zone)
            days = {(EPOCH + timedelta(microseconds=row.time)).astimezone(zone).date() for row in rows}
            return Fraction(len(days)) if days else None
        case Aggregate.DISTINCT:
            values = {
                (kind_of(value), value) for row in rows if (value := row.attributes.get(step.of)) is not None
            }
            return Fraction(len(values)) if values else None
    numbers = [shortest(value) for row in rows if type(value := row.attributes.get(step.of)) is float]
    if not numbers:
        return None
    return {
        Aggregate.SUM: sum(numbers, Fraction()),
        Aggregate.AVERAGE: sum(numbers, Fraction()) / len(numbers),
        Aggregate.MIN: min(numbers),
        Aggregate.MAX: max(numbers),
        Aggregate.FIRST: numbers[0],
        Aggregate.LAST: numbers[-1],
    }[step.aggregate]


def _by_time(row: EventRow) -> tuple[int, int]:
    return row.time, row.sequence


def by_user(rows: Iterable[EventRow], group: int) -> dict[int, list[EventRow]]:
    users: dict[int, list[EventRow]] = {}
    for row in rows:
        if row.group == group:
            users.setdefault(row.user, []).append(row)
    return users


def match(rows: Iterable[EventRow], group: int, step: ResolvedEventMatch) -> set[int]:
    passed = set()
    for user, user_rows in by_user(rows, group).items():
        number = aggregate(user_rows, step)
        if number is not None and in_intervals(number, step.intervals):
            passed.add(user)
    return passed


def match_sequence(rows: Iterable[EventRow], group: int, step: ResolvedSequence) -> set[int]:
    passed = set()
    for user, user_rows in by_user(rows, group).items():
        times = [[row.time for row in user_rows if takes_part(row, one)] for one in step.steps]
        if any(_continues(times[1:], first, first, step.within) for first in times[0]):
            passed.add(user)
    return passed


def _continues(times: list[list[int]], first: int, before: int, within: int | None) -> bool:
    if not times:
        return True
    return any(
        _continues(times[1:], first, time, within)
        for time in times[0]
        if time > before and (within is None or time - first <= within)
    )
