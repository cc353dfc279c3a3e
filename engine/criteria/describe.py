"""Criteria in words, for people who ask why a user is in an audience and what a plan does."""

from __future__ import annotations

import datetime as dt
import json

from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    Between,
    BetweenAgo,
    Bucket,
    Calendar,
    Compare,
    Consent,
    Criterion,
    Equals,
    Event,
    Exists,
    Identity,
    In,
    Last,
    Near,
    Not,
    OlderThan,
    Range,
    Semver,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    Where,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    Window,
    WithinLast,
)
from engine.criteria.ranges import Interval, TimeRange
from engine.criteria.resolved import InstantRange, NumberRange, ResolvedTest
from engine.values import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    MICROS_PER_SECOND,
    TIME_MAX_MICROS,
    TIME_MIN_MICROS,
    Micros,
    Value,
)

VALUES_SHOWN_MAX = 5

_SYMBOLS = {
    "greater_than": ">",
    "greater_or_equal": ">=",
    "less_than": "<",
    "less_or_equal": "<=",
    "equals": "=",
}
_EPOCH = dt.datetime(1970, 1, 1)


def describe_criterion(criterion: Criterion) -> str:
    """One line about a node. Groups name how many parts they have, the parts speak for themselves."""
    match criterion:
        case AllOf():
            return _group(criterion.criteria, "all of", "everyone")
        case AnyOf():
            return _group(criterion.criteria, "any of", "no one")
        case Not():
            return "not"
        case UserAttribute():
            return f"user attribute {quoted(criterion.key)} {describe_test(criterion.test)}"
        case Event():
            return _event(criterion)
        case Sequence():
            return _sequence(criterion)
        case Audience():
            return f"in audience {criterion.name}"
        case Consent():
            where = f"{quoted(criterion.regulation)} for {quoted(criterion.purpose)}"
            return f"consent under {where} is {criterion.state.value}"
        case Identity():
            return f"identity {quoted(criterion.type)} {describe_test(criterion.test)}"
        case Bucket():
            share = f"from {number(criterion.from_percent)} % to below {number(criterion.to_percent)} %"
            return f"bucket of salt {quoted(criterion.salt)} {share}"


def _group(parts: tuple[Criterion, ...], several: str, none: str) -> str:
    return f"{several} {len(parts)}" if parts else none


def _event(event: Event) -> str:
    what = (
        f"{event.aggregate.value} of {quoted(event.of)} over" if event.of else event.aggregate.value + " of"
    )
    test = "> 0" if event.test is None else describe_test(event.test)
    return f"{what} {describe_selection(event)}{_in_window(event.window)} {test}"


def _sequence(sequence: Sequence) -> str:
    steps = ", then ".join(map(describe_selection, sequence.steps))
    within = "" if sequence.within is None else f", all within {duration(sequence.within)}"
    return f"{steps}{within}{_in_window(sequence.window)}"


def describe_selection(selected: Event | Step) -> str:
    """Which events: name, type, condition, inputs."""
    parts = [f"event {quoted(selected.name)}" if selected.name else "any event"]
    if selected.type is not None:
        parts.append(f"of type {selected.type.name}")
    if selected.where is not None:
        parts.append(f"where {describe_where(selected.where)}")
    if selected.inputs:
        parts.append(f"through {', '.join(selected.inputs)}")
    return " ".join(parts)


def describe_where(where: Where) -> str:
    """A condition on one event."""
    match where:
        case WhereAll():
            return _joined(where.conditions, " and ", "anything")
        case WhereAny():
            return _joined(where.conditions, " or ", "nothing")
        case WhereNot():
            return f"not {describe_where(where.condition)}"
        case WhereAttribute():
            return f"{quoted(where.key)} {describe_test(where.test)}"


def _joined(conditions: tuple[Where, ...], word: str, none: str) -> str:
    return f"({word.join(map(describe_where, conditions))})" if conditions else none


def _in_window(window: Window | None) -> str:
    match window:
        case None:
            return ""
        case Last():
            return f" in the last {duration(window.duration)}"
        case BetweenAgo():
            return f" between {duration(window.from_)} and {duration(window.to)} ago"
        case Range():
            return f" {describe_range(TimeRange(window.start, window.end))}"
        case Calendar():
            zone = f" in {window.time_zone}" if window.time_zone else ""
            return (
                f" in {window.count} calendar {window.unit.value}(s), {window.offset} before this one{zone}"
            )


def describe_test(test: ValueTest | ResolvedTest) -> str:
    """A test, to follow the name of what it is asked of."""
    match test:
        case Exists():
            return "exists"
        case Equals():
            return f"= {value(test.value)}{_case(test.ignore_case)}"
        case In():
            return f"in {_values(test.values)}{_case(test.ignore_case)}"
        case Compare():
            return f"{_SYMBOLS[test.op]} {value(test.operand)}"
        case Between():
            return f"between {value(test.low)} and {value(test.high)}"
        case Text():
            return f"{test.op.replace('_', ' ')} {quoted(test.pattern)}{_case(test.ignore_case)}"
        case Semver():
            return f"is a version {_SYMBOLS[test.op]} {test.version}"
        case Near():
            return f"within {number(test.meters)} m of {number(test.latitude)},{number(test.longitude)}"
        case WithinLast():
            return f"in the last {duration(test.duration)}"
        case OlderThan():
            return f"{duration(test.duration)} ago or longer"
        case NumberRange():
            return describe_intervals(test.intervals)
        case InstantRange():
            return " or ".join(map(describe_range, test.ranges)) or "never"


def describe_intervals(intervals: tuple[Interval, ...]) -> str:
    """Sorted intervals of numbers."""
    return " or ".join(map(_interval, intervals)) or "no number"


def _interval(interval: Interval) -> str:
    if interval.low is not None and interval.low == interval.high:
        return f"= {number(interval.low)}"
    ends = []
    if interval.low is not None:
        ends.append(f"{'>=' if interval.low_included else '>'} {number(interval.low)}")
    if interval.high is not None:
        ends.append(f"{'<=' if interval.high_included else '<'} {number(interval.high)}")
    return " and ".join(ends) or "any number"


def describe_range(span: TimeRange) -> str:
    """A half-open range of instants."""
    if span.start is None:
        return "at any time" if span.end is None else f"before {instant(span.end)}"
    if span.end is None:
        return f"from {instant(span.start)}"
    return f"from {instant(span.start)} to before {instant(span.end)}"


def value(of: Value) -> str:
    """A value as JSON would have it, times as RFC 3339."""
    if type(of) is float:
        return number(of)
    if type(of) is int:
        return instant(of)
    return json.dumps(of, ensure_ascii=False)


def _values(values: tuple[Value, ...]) -> str:
    shown = ", ".join(map(value, values[:VALUES_SHOWN_MAX]))
    more = len(values) - VALUES_SHOWN_MAX
    return f"[{shown}, and {more} more]" if more > 0 else f"[{shown}]"


def _case(ignored: bool) -> str:
    return " ignoring case" if ignored else ""


def quoted(text: str) -> str:
    """A name or pattern in quotes, control characters escaped."""
    return json.dumps(text, ensure_ascii=False)


def number(of: float) -> str:
    """The shortest decimal form, whole numbers without a point."""
    return repr(of).removesuffix(".0")


def instant(micros: Micros) -> str:
    """RFC 3339 in UTC; instants before the year 1 or after 9999 say so."""
    if micros < TIME_MIN_MICROS:
        return "the beginning of time"
    if micros > TIME_MAX_MICROS:
        return "the end of time"
    return (_EPOCH + dt.timedelta(microseconds=micros)).isoformat() + "Z"


def duration(micros: Micros) -> str:
    """The largest unit that says it in whole numbers: days, hours, else seconds."""
    for unit, name in ((MICROS_PER_DAY, "day"), (MICROS_PER_HOUR, "hour")):
        if micros and micros % unit == 0:
            return f"{micros // unit} {name}{'' if micros == unit else 's'}"
    return f"{number(micros / MICROS_PER_SECOND)} s"
