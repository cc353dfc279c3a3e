"""Conditions over the events of one user: selections, aggregates and sequences.

Every function writes an expression of an aggregation by user over rows of `events`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple, assert_never

from engine.backends.clickhouse.query.cells import Cell, event_attribute
from engine.backends.clickhouse.query.literals import (
    FALSE,
    TRUE,
    all_of,
    any_of,
    int64,
    int64s,
    int256,
    number,
    one_of,
    text,
)
from engine.backends.clickhouse.query.value_tests import ValueTests, in_intervals, in_range
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate
from engine.criteria.ranges import Interval, TimeRange
from engine.criteria.zones import SPAN_MICROS, offsets_in_span
from engine.plan.model import EventMatch, EventSelection, RowFilter, SequenceMatch
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS, Micros

ARRIVAL_ORDER = "bitShiftLeft(toInt128(time), 64) + seq"
"""Events in order of time, of equal times in order of arrival, as one number: `argMax` by a tuple takes 3.5
times the work.
"""

INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

DECIMAL_DIGITS = 38
"""Sums count units of 10^-38."""
DECIMAL_LEAST, DECIMAL_BELOW = 1e-20, 1e20
"""Numbers whose shortest decimal form has at most 17 digits, all of them within `DECIMAL_DIGITS`. Billions of
them add up to less than 2^255 units.
"""
MILLIONTHS_BELOW = 1e9
"""A smaller number that is a whole number of millionths has at most 15 digits. No other decimal of 15 digits
is the same double, so these are its shortest form.
"""
SUM_BELOW = 10**29
"""Above every sum: a user has fewer than 10^9 events."""
_UNITS = 10**DECIMAL_DIGITS
_UNITS_PER_MILLIONTH = _UNITS // 10**6

FUNNEL_STEPS_MAX = 16
"""Steps of a sequence that `windowFunnel` decides: all instants, spread over these, and a window after them
are below 2^64.
"""

Comparison = Literal[">", ">=", "<", "<="]
Named = Callable[[str], str]
"""Gives an expression over a row a name, and computes it once."""


class Aggregated(NamedTuple):
    """Whether a user passes, and whether SQL cannot tell."""

    passes: str
    is_undecided: str


def selected(selection: EventSelection, tests: ValueTests, table: str) -> str:
    """Whether a row is in the selection."""
    bare = all_of(
        [
            one_of("input", selection.inputs),
            f"name = {text(selection.name)}" if selection.name else TRUE,
            TRUE if selection.type is None else f"type = {int(selection.type)}",
            in_range("time", selection.time),
        ]
    )
    if selection.where is None:
        return bare
    return all_of([bare, _where(selection.where, tests, table, bare)])


def _where(where: RowFilter, tests: ValueTests, table: str, condition: str) -> str:
    match where:
        case WhereAll():
            return all_of(_where(each, tests, table, condition) for each in where.conditions)
        case WhereAny():
            return any_of(_where(each, tests, table, condition) for each in where.conditions)
        case WhereNot():
            return f"NOT {_where(where.condition, tests, table, condition)}"
        case WhereAttribute():
            return (
                f"({tests.passes(where.test, event_attribute(where.key, tests.promoted), table, condition)})"
            )
        case _:
            assert_never(where)


# --- aggregates ---------------------------------------------------------------------------------------------


def aggregated(
    step: EventMatch,
    is_selected: str,
    named: Named,
    spans: Sequence[int],
    *,
    promoted: Collection[str] = (),
    has_ties: bool = False,
) -> Aggregated:
    """Whether the aggregate over the selected events lies in the intervals of the step. `spans` are the spans
    of time that have all events of the account, `promoted` the attributes with columns of their own.
    `has_ties`: two events may have one place in the order of arrival; then the first has the least number,
    and the last one the greatest.
    """
    cell = event_attribute(step.of, promoted)
    order = f"({ARRIVAL_ORDER}, {cell.number.value})" if has_ties else ARRIVAL_ORDER
    takes_part = named(all_of([is_selected, _fits(step.aggregate, cell)]))
    some = f"countIf({takes_part}) > 0"
    undecided = FALSE
    match step.aggregate:
        case Aggregate.COUNT:
            passes = in_intervals(f"countIf({takes_part})", step.intervals)
        case Aggregate.DISTINCT_DAYS:
            day = named(_local_day(step.time_zone, _within_range(spans, step.selection.time)))
            passes = in_intervals(f"uniqExactIf({day}, {takes_part})", step.intervals)
        case Aggregate.DISTINCT:
            passes = in_intervals(f"uniqExactIf({named(_value_key(cell))}, {takes_part})", step.intervals)
        case Aggregate.SUM | Aggregate.AVERAGE:
            passes, undecided = _sum_passes(step, cell.number.value, takes_part, named)
        case Aggregate.MIN:
            passes = in_intervals(f"minIf({named(cell.number.value)}, {takes_part})", step.intervals)
        case Aggregate.MAX:
            passes = in_intervals(f"maxIf({named(cell.number.value)}, {takes_part})", step.intervals)
        case Aggregate.FIRST:
            first = f"argMinIf({named(cell.number.value)}, {named(order)}, {takes_part})"
            passes = in_intervals(first, step.intervals)
        case Aggregate.LAST:
            last = f"argMaxIf({named(cell.number.value)}, {named(order)}, {takes_part})"
            passes = in_intervals(last, step.intervals)
        case _:
            assert_never(step.aggregate)
    return Aggregated(all_of([some, passes]), undecided)


def _fits(aggregate: Aggregate, cell: Cell) -> str:
    if aggregate in (Aggregate.COUNT, Aggregate.DISTINCT_DAYS):
        return TRUE
    return cell.is_there if aggregate is Aggregate.DISTINCT else cell.number.there


def _within_range(spans: Sequence[int], time: TimeRange) -> list[int]:
    """The spans that a range overlaps."""
    return [
        span
        for span in spans
        if (time.start is None or time.start < (span + 1) * SPAN_MICROS)
        and (time.end is None or time.end > span * SPAN_MICROS)
    ]


def _local_day(time_zone: str, spans: Sequence[int]) -> str:
    """The number of the day in a time zone, by our tables of time zones and not the server's."""
    if not spans:
        return int64(0)
    offsets: list[tuple[Micros, Micros]] = []
    for span in spans:
        for since, offset in offsets_in_span(time_zone, span):
            if not offsets or offsets[-1][1] != offset:
                offsets.append((since, offset))
    offset_now = int64(offsets[0][1])
    if len(offsets) > 1:
        later = f"arrayFirstIndex(x -> x > time, {int64s(since for since, _ in offsets[1:])})"
        values = [offset for _, offset in offsets]
        # The index is 0 when the time is after the last change, and counts from 1 otherwise.
        offset_now = f"{int64s([values[-1], *values[:-1]])}[{later} + 1]"
    # Division cuts towards zero, so days are counted from one that is before every event.
    before_all = -(spans[0] * SPAN_MICROS // MICROS_PER_DAY - 2) * MICROS_PER_DAY
    return f"intDiv(time + {offset_now} + {int64(before_all)}, {MICROS_PER_DAY})"


def _value_key(cell: Cell) -> str:
    """A string that two values share exactly when they are the same."""
    elements = f"arrayStringConcat(arrayMap(x -> concat(toString(length(x)), ':', x), {cell.list.value}))"
    return (
        f"multiIf({cell.string.there}, concat('s', {cell.string.value}),"
        f" {cell.number.there}, concat('n', hex({cell.number.value} + {number(0.0)})),"
        f" {cell.bool.there}, concat('b', toString({cell.bool.value})),"
        f" {cell.time.there}, concat('t', toString({cell.time.value})),"
        f" concat('l', {elements}))"
    )


# --- exact sums ---------------------------------------------------------------------------------------------


def _sum_passes(step: EventMatch, value: str, takes_part: str, named: Named) -> tuple[str, str]:
    """Sums of shortest decimal forms, as integers. Most numbers are whole millionths; the others are read
    from their digits. A user with a number outside `DECIMAL_LEAST` and `DECIMAL_BELOW` is undecided.
    """
    millionths = f"round({value} * 1000000)"
    small = named(f"abs({value}) < {number(MILLIONTHS_BELOW)} AND {millionths} / {number(1e6)} = {value}")
    magnitude = f"abs({value})"
    fits = f"({magnitude} >= {number(DECIMAL_LEAST)} AND {magnitude} < {number(DECIMAL_BELOW)})"
    by_millionths = named(f"if({small}, toInt128({millionths}), toInt128(0))")
    digits = f"reinterpret(toDecimal256OrZero(toString({value}), {DECIMAL_DIGITS}), 'Int256')"
    by_digits = named(f"if(NOT {small} AND {fits} AND {takes_part}, {digits}, toInt256(0))")
    is_beyond = named(f"NOT {small} AND NOT {fits}")
    total = (
        f"(toInt256(sumIf({by_millionths}, {takes_part})) * {int256(_UNITS_PER_MILLIONTH)}"
        f" + sumIf({by_digits}, {takes_part}))"
    )
    count = f"countIf({takes_part})" if step.aggregate is Aggregate.AVERAGE else ""
    bounds = [bound for each in step.intervals for bound in (each.low, each.high) if bound is not None]
    if count and not all(_is_whole(bound) for bound in bounds):
        return FALSE, f"countIf({takes_part}) > 0"
    passes = any_of(_total_in(total, count, interval) for interval in step.intervals)
    return passes, f"countIf({takes_part} AND {is_beyond}) > 0"


def _total_in(total: str, count: str, interval: Interval) -> str:
    bounds = []
    if interval.low is not None:
        bounds.append(_total_compared(total, count, interval.low, ">=" if interval.low_included else ">"))
    if interval.high is not None:
        bounds.append(_total_compared(total, count, interval.high, "<=" if interval.high_included else "<"))
    return all_of(bounds)


def _units(bound: float) -> Fraction:
    return Fraction(repr(bound)) * Fraction(_UNITS)


def _is_whole(bound: float) -> bool:
    """Whether a bound is a whole number of units. Then averages compare with it in integers."""
    return _units(bound).denominator == 1


def _total_compared(total: str, count: str, bound: float, comparison: Comparison) -> str:
    """Whether the sum (or the average, with a count) compares with a bound."""
    units = _units(bound)
    if abs(units) >= SUM_BELOW * _UNITS:
        return TRUE if (units < 0) == (comparison in (">", ">=")) else FALSE
    whole = math.ceil(units) if comparison in (">=", "<") else math.floor(units)
    wanted = int256(whole)
    return f"{total} {comparison} {f'{wanted} * toInt256({count})' if count else wanted}"


# --- sequences ----------------------------------------------------------------------------------------------


def in_sequence(step: SequenceMatch, is_selected: Sequence[str], named: Named) -> str:
    """Whether a user has events in that order, each strictly later than the one before. `is_selected` says
    for each step whether a row is in its selection.
    """
    if len(step.steps) <= FUNNEL_STEPS_MAX and _are_disjoint(step.steps):
        return _funnel(is_selected, step.within, named)
    times = [f"groupUniqArrayIf(time, {each})" for each in is_selected]
    return _in_order(times) if step.within is None else _within(times, step.within)


def _are_disjoint(selections: Sequence[EventSelection]) -> bool:
    """Whether no event can be in two of the selections, by their names and types alone."""

    def differ(one: EventSelection, other: EventSelection) -> bool:
        by_name = "" not in (one.name, other.name) and one.name != other.name
        return by_name or (None not in (one.type, other.type) and one.type != other.type)

    return all(itertools.starmap(differ, itertools.combinations(selections, 2)))


def _funnel(is_selected: Sequence[str], within: Micros | None, named: Named) -> str:
    """`windowFunnel` goes through the events in order of time and keeps for each step the latest first event
    of a sequence that ends there. Of events at one instant it takes those of earlier steps first, and so
    loses the sequence that one of them overwrites. So each instant is spread over as many numbers as there
    are steps, and later steps come first.
    """
    steps = len(is_selected)
    places = ", ".join(f"{each}, {steps - 1 - place}" for place, each in enumerate(is_selected))
    place = f"multiIf({places}, 0)" if steps > 1 else "0"
    order = named(f"toUInt64(time + {int64(-TIME_MIN_MICROS)}) * {steps} + {place}")
    longest = TIME_MAX_MICROS - TIME_MIN_MICROS
    window = steps * (longest if within is None else min(within, longest))
    return f"windowFunnel({window})({order}, {', '.join(is_selected)}) = {steps}"


def _in_order(times: Sequence[str]) -> str:
    """The earliest time at which each step can have happened, or the end of time."""
    never = int64(INT64_MAX)
    earliest = f"arrayMin(arrayPushBack({times[0]}, {never}))"
    for each in times[1:]:
        later = f"arrayMap(before -> arrayFilter(x -> x > before, {each}), [{earliest}])[1]"
        earliest = f"arrayMin(arrayPushBack({later}, {never}))"
    return f"{earliest} < {never}"


def _within(times: Sequence[str], within: Micros) -> str:
    """Keeps for each time of a step the latest first event of a sequence that ends there. The later a
    sequence ends, the later it can have begun, so the last one that ended before is the one to continue.
    """
    chains = f"arraySort(arrayMap(t -> (t, t), {times[0]}))"
    for each in times[1:]:
        # Both in order of time. A new time comes before what ended at the same instant.
        ended = f"arrayMap(c -> (c.1, 1, c.2), {chains})"
        both = f"arraySort(arrayConcat({ended}, arrayMap(t -> (t, 0, toInt64(0)), {each})))"
        carried = "arrayFill(x -> x.2 = 1, m)"
        continued = f"arrayMap((o, c) -> (o.1, c.3, o.2 = 0 AND c.2 = 1), m, {carried})"
        kept = f"arrayMap(x -> (x.1, x.2), arrayFilter(x -> x.3, {continued}))"
        # A lambda gives `both` the name `m`. With an alias the statement would double with each step.
        chains = f"arrayMap(m -> {kept}, [{both}])[1]"
    return f"arrayExists(c -> c.1 - c.2 <= {int64(within)}, {chains})"
