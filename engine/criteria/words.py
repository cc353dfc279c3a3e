"""Values, ranges and durations in words, for descriptions and messages."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable

from engine.criteria.ranges import Interval, TimeRange
from engine.values import (
    MICROS_PER_DAY,
    MICROS_PER_HOUR,
    MICROS_PER_SECOND,
    TIME_MAX_MICROS,
    TIME_MIN_MICROS,
    Kind,
    Micros,
    Value,
)

VALUES_SHOWN_MAX = 5

SYMBOLS = {
    "greater_than": ">",
    "greater_or_equal": ">=",
    "less_than": "<",
    "less_or_equal": "<=",
    "equals": "=",
}
_PLURALS = {
    Kind.STRING: "strings",
    Kind.NUMBER: "numbers",
    Kind.BOOL: "booleans",
    Kind.TIME: "times",
    Kind.LIST: "lists",
}
_EPOCH = dt.datetime(1970, 1, 1)


def intervals_in_words(intervals: tuple[Interval, ...]) -> str:
    """Sorted intervals of numbers."""
    return " or ".join(map(_interval, intervals)) or "no number"


def _interval(interval: Interval) -> str:
    if interval.low is not None and interval.low == interval.high:
        return f"= {number_in_words(interval.low)}"
    ends = []
    if interval.low is not None:
        ends.append(f"{'>=' if interval.low_included else '>'} {number_in_words(interval.low)}")
    if interval.high is not None:
        ends.append(f"{'<=' if interval.high_included else '<'} {number_in_words(interval.high)}")
    return " and ".join(ends) or "any number"


def range_in_words(span: TimeRange) -> str:
    """A half-open range of instants."""
    if span.start is None:
        return "at any time" if span.end is None else f"before {instant_in_words(span.end)}"
    if span.end is None:
        return f"from {instant_in_words(span.start)}"
    return f"from {instant_in_words(span.start)} to before {instant_in_words(span.end)}"


def ranges_in_words(ranges: tuple[TimeRange, ...]) -> str:
    """Sorted ranges of instants."""
    return " or ".join(map(range_in_words, ranges)) or "never"


def value_in_words(of: Value) -> str:
    """A value in JSON form, times as RFC 3339."""
    if type(of) is float:
        return number_in_words(of)
    if type(of) is int:
        return instant_in_words(of)
    return json.dumps(of, ensure_ascii=False)


def values_in_words(values: tuple[Value, ...]) -> str:
    """The first few values, and the number of others."""
    shown = ", ".join(map(value_in_words, values[:VALUES_SHOWN_MAX]))
    more = len(values) - VALUES_SHOWN_MAX
    return f"[{shown}, and {more} more]" if more > 0 else f"[{shown}]"


def kinds_in_words(kinds: Iterable[Kind], last: str) -> str:
    """Kinds of value in the plural, the last one after the word `last`."""
    *others, final = (_PLURALS[kind] for kind in sorted(kinds))
    return f"{', '.join(others)} {last} {final}" if others else final


def kind_in_words(kinds: Iterable[Kind], *, article: bool = True) -> str:
    """Kinds of value in the singular."""
    before = "a " if article else ""
    return " or ".join(before + _PLURALS[kind].removesuffix("s") for kind in sorted(kinds))


def sendable_kinds(kinds: Collection[Kind]) -> Collection[Kind]:
    """What to send so that a test of these kinds can pass. A test on strings takes lists of them as well,
    which would be one word too many.
    """
    return set(kinds) - {Kind.LIST} if Kind.STRING in kinds else kinds


def ignoring_case(ignored: bool) -> str:
    """The suffix of an operand when case is ignored."""
    return " ignoring case" if ignored else ""


def quoted(text: str) -> str:
    """A name or pattern in quotes, control characters escaped."""
    return json.dumps(text, ensure_ascii=False)


def number_in_words(of: float) -> str:
    """The shortest decimal form, whole numbers without a point."""
    return repr(of).removesuffix(".0")


def instant_in_words(micros: Micros) -> str:
    """RFC 3339 in UTC; a phrase for instants before the year 1 or after 9999."""
    if micros < TIME_MIN_MICROS:
        return "the beginning of time"
    if micros > TIME_MAX_MICROS:
        return "the end of time"
    return (_EPOCH + dt.timedelta(microseconds=micros)).isoformat() + "Z"


def duration_in_words(micros: Micros) -> str:
    """In the largest unit that gives a whole number: days, hours, otherwise seconds."""
    for unit, name in ((MICROS_PER_DAY, "day"), (MICROS_PER_HOUR, "hour")):
        if micros and micros % unit == 0:
            return f"{micros // unit} {name}{'' if micros == unit else 's'}"
    return f"{number_in_words(micros / MICROS_PER_SECOND)} s"
