"""Aggregates and sequences of one user, whose rows are in memory: without arrays over users.

A user has a few rows of an event, and a call of numpy takes longer than to look at them one by one. What is
not in memory, and users of many rows, go the way of many users (`TakesLong`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from engine.backends.local.events.aggregate import row_counts_of
from engine.backends.local.events.columns import Column, DictionaryColumn, NumberColumn, TimeColumn
from engine.backends.local.events.days import local_days
from engine.backends.local.events.decimals import integer_bounds, sum_in
from engine.backends.local.events.model import ResolvedEventMatch, RowCondition
from engine.backends.local.events.part import Part
from engine.backends.local.events.sums import inside_or_outside, rounding_error
from engine.backends.local.storage.turns import TakesLong
from engine.criteria.conditions import WhereAll, WhereAny, WhereAttribute, WhereNot
from engine.criteria.model import Aggregate
from engine.criteria.operators import Matcher, ResolvedTest, matcher_of
from engine.criteria.ranges import Interval
from engine.values import Kind, Micros, Value

RowsOfOne: TypeAlias = tuple[Part, range]
"""Some rows of a part, at least one, all of one user, in order of time and arrival."""
_Chosen: TypeAlias = tuple[Part, Sequence[int]]
"""Those of them that pass a condition, in the same order."""
_RowTest: TypeAlias = Callable[[int], bool]

ROWS_MAX = 512
"""Rows of a user that are looked at one by one: a fraction of a millisecond."""
ROWS_SUMMED_MAX = 4_096
"""Rows of a user whose numbers are only added up: about as long."""
ENTRIES_DECODED_MAX = 1_024
"""Distinct values of a part that are decoded to look at some of them."""


def aggregate_of_one_passes(rows: Sequence[RowsOfOne], step: ResolvedEventMatch) -> bool:
    """Whether the aggregate over the rows of one user that pass the step's condition lies in its intervals.
    Raises TakesLong.
    """
    intervals = step.intervals
    if step.aggregate is Aggregate.COUNT and step.selection.where is None:
        return _is_count(sum([len(some) for _, some in rows]), intervals)
    is_sum = step.aggregate in (Aggregate.SUM, Aggregate.AVERAGE)
    rows_max = ROWS_SUMMED_MAX if is_sum and step.selection.where is None else ROWS_MAX
    if sum([len(some) for _, some in rows]) > rows_max:
        raise TakesLong
    chosen = _chosen(rows, step.selection.where)
    match step.aggregate:
        case Aggregate.COUNT:
            return _is_count(sum([len(some) for _, some in chosen]), intervals)
        case Aggregate.DISTINCT_DAYS:
            times = np.array([time for some in chosen for time in _times_of(some)], np.int64)
            return _is_count(len(set(local_days(times, step.time_zone).tolist())), intervals)
        case Aggregate.DISTINCT:
            return _is_count(len(set(_distinct(chosen, step.of))), intervals)
        case Aggregate.SUM | Aggregate.AVERAGE:
            return _total_passes(chosen, step.of, intervals, is_average=step.aggregate is Aggregate.AVERAGE)
        case Aggregate.MIN | Aggregate.MAX:
            numbers = [number for some in chosen for _, number in _numbers_of(some, step.of)]
            if not numbers:
                return False
            best = min(numbers) if step.aggregate is Aggregate.MIN else max(numbers)
        case Aggregate.FIRST | Aggregate.LAST:
            end = _end_of(chosen, step.of, is_first=step.aggregate is Aggregate.FIRST)
            if end is None:
                return False
            best = end
    return any(interval.holds(best) for interval in intervals)


def sequence_of_one_passes(
    steps: Sequence[tuple[Sequence[RowsOfOne], RowCondition | None]], within: Micros | None
) -> bool:
    """Whether one user has events e1 < e2 < …, where ei is one of the rows of step i that pass its condition,
    and the last is at most `within` after the first. Raises TakesLong.
    """
    if sum([len(some) for rows, _ in steps for _, some in rows]) > ROWS_MAX:
        raise TakesLong
    chains: list[tuple[Micros, Micros]] = []
    """The end of each chain of the steps so far, in order, and its latest possible start."""
    for number, (rows, where) in enumerate(steps):
        times = sorted(time for some in _chosen(rows, where) for time in _times_of(some))
        chains = _longer(chains, times) if number else [(time, time) for time in times]
        if not chains:
            return False
    return within is None or any(end - start <= within for end, start in chains)


def _longer(chains: list[tuple[Micros, Micros]], times: list[Micros]) -> list[tuple[Micros, Micros]]:
    """The chains that end at these times, in order: each goes on from the last one that ends before."""
    found: list[tuple[Micros, Micros]] = []
    at = 0
    for time in times:
        while at < len(chains) and chains[at][0] < time:
            at += 1
        if at:
            found.append((time, chains[at - 1][1]))
    return found


def _is_count(count: int, intervals: Sequence[Interval]) -> bool:
    return any(least <= count and (most is None or count <= most) for least, most in row_counts_of(intervals))


# --- conditions ---------------------------------------------------------------------------------------------


def _chosen(rows: Sequence[RowsOfOne], where: RowCondition | None) -> Sequence[_Chosen]:
    """The rows that pass a condition, of the parts that have any."""
    if where is None:
        return rows
    found: list[_Chosen] = []
    for part, some in rows:
        passes = _row_test(part, where)
        kept = [row for row in some if passes(row)]
        if kept:
            found.append((part, kept))
    return found


def _row_test(part: Part, where: RowCondition) -> _RowTest:
    match where:
        case WhereAll(conditions=conditions):
            tests = [_row_test(part, each) for each in conditions]
            return lambda row: all(test(row) for test in tests)
        case WhereAny(conditions=conditions):
            tests = [_row_test(part, each) for each in conditions]
            return lambda row: any(test(row) for test in tests)
        case WhereNot(condition=condition):
            test = _row_test(part, condition)
            return lambda row: not test(row)
        case WhereAttribute():
            return _attribute_test(part, where)


def _attribute_test(part: Part, where: WhereAttribute[int, ResolvedTest]) -> _RowTest:
    matcher = matcher_of(where.test)
    columns = [
        (column, _value_test(column, matcher))
        for kind in matcher.kinds
        if (column := part.column_in_memory(where.key, kind)) is not None
    ]

    def passes(row: int) -> bool:
        for column, test in columns:
            at = _place(column, row)
            if at is not None and test(at):
                return True
        return False

    return passes


def _value_test(column: Column, matcher: Matcher) -> _RowTest:
    """Whether a value of the column, by its place, passes."""
    if isinstance(column, DictionaryColumn):
        codes, values = column.codes, _values_of(column)
        return lambda at: matcher.passes(values[codes[at]])
    if isinstance(column, TimeColumn):
        times = column.times
        return lambda at: any(span.holds(int(times[at])) for span in matcher.instants)
    numbers = column.mantissas
    if numbers is None:
        doubles = column.doubles
        return lambda at: any(interval.holds(float(doubles[at])) for interval in matcher.numbers)
    bounds = [integer_bounds(interval, column.exponent) for interval in matcher.numbers]
    return lambda at: _lies_in(int(numbers[at]), bounds)


def _lies_in(number: int, bounds: Iterable[tuple[int | None, int | None]]) -> bool:
    return any((low is None or low <= number) and (high is None or number <= high) for low, high in bounds)


def _place(column: Column, row: int) -> int | None:
    """Where the value of a row is in the column; None when the row has none."""
    positions = column.positions
    if positions is None:
        return row
    at = int(positions.searchsorted(row))
    return at if at < len(positions) and positions[at] == row else None


def _values_of(column: DictionaryColumn) -> list[Value]:
    if not column.entries.are_decoded and column.entries.count > ENTRIES_DECODED_MAX:
        raise TakesLong
    return column.entries.values


# --- values -------------------------------------------------------------------------------------------------


def _times_of(some: _Chosen) -> list[Micros]:
    part, rows = some
    times = part.times_in_memory()
    if isinstance(rows, range):
        found: list[Micros] = times[rows.start : rows.stop].tolist()
        return found
    return [int(times[row]) for row in rows]


def _numbers_of(some: _Chosen, of: int) -> Iterator[tuple[int, float]]:
    """The rows that have a number, and the number, in order."""
    part, rows = some
    column = part.column_in_memory(of, Kind.NUMBER)
    if not isinstance(column, NumberColumn):
        return
    mantissas, power = column.mantissas, 10.0**column.exponent
    for row in rows:
        at = _place(column, row)
        if at is not None:
            # As in `NumberColumn.doubles`, which would convert the whole column.
            yield row, float(column.doubles[at]) if mantissas is None else int(mantissas[at]) / power


def _distinct(chosen: Sequence[_Chosen], of: int) -> Iterator[tuple[Kind, Value]]:
    """The values of an attribute, with their kinds: True and 1.0 are two."""
    for some in chosen:
        yield from ((Kind.NUMBER, number) for _, number in _numbers_of(some, of))
        part, rows = some
        for kind in Kind:
            column = None if kind is Kind.NUMBER else part.column_in_memory(of, kind)
            if column is None or isinstance(column, NumberColumn):
                continue
            places = [at for row in rows if (at := _place(column, row)) is not None]
            if isinstance(column, TimeColumn):
                yield from ((kind, int(column.times[at])) for at in places)
            elif places:
                values = _values_of(column)
                yield from ((kind, values[column.codes[at]]) for at in places)


def _total_passes(
    chosen: Sequence[_Chosen], of: int, intervals: Sequence[Interval], *, is_average: bool
) -> bool:
    """SUM and AVERAGE. Raises TakesLong when they need `decimal`."""
    columns: list[tuple[NumberColumn, Sequence[int]]] = []
    for part, rows in chosen:
        column = part.column_in_memory(of, Kind.NUMBER)
        if isinstance(column, NumberColumn):
            columns.append((column, rows))
    if any(column.mantissas is None for column, _ in columns):
        return _total_of_doubles_passes(columns, intervals, is_average=is_average)
    total = count = exponent = 0
    for column, rows in columns:
        assert column.mantissas is not None
        mantissas = _of_rows(column, column.mantissas, rows)
        count += len(mantissas)
        if column.exponent > exponent:
            total *= 10 ** (column.exponent - exponent)
            exponent = column.exponent
        total += sum(mantissas) * 10 ** (exponent - column.exponent)
    if not count:
        return False
    if is_average:
        return sum_in(Decimal(f"{total}E-{exponent}"), count, intervals)
    return _lies_in(total, [integer_bounds(interval, exponent) for interval in intervals])


def _total_of_doubles_passes(
    columns: Sequence[tuple[NumberColumn, Sequence[int]]], intervals: Sequence[Interval], *, is_average: bool
) -> bool:
    total = size = 0.0
    count = 0
    for column, rows in columns:
        if column.mantissas is None:
            numbers = _of_rows(column, column.doubles, rows)
        else:
            power = 10.0**column.exponent
            numbers = [mantissa / power for mantissa in _of_rows(column, column.mantissas, rows)]
        total += sum(numbers)
        size += sum(map(abs, numbers))
        count += len(numbers)
    if not count:
        return False
    error = rounding_error(size, count)
    is_inside, is_outside = inside_or_outside(total, error, count if is_average else 1, intervals)
    if not (is_inside or is_outside):
        raise TakesLong
    return is_inside


def _of_rows(column: NumberColumn, numbers: npt.NDArray[Any], rows: Sequence[int]) -> list[Any]:
    """The numbers of the rows that have one."""
    if not isinstance(rows, range):
        return [numbers[at].item() for row in rows if (at := _place(column, row)) is not None]
    first, last = rows.start, rows.stop
    if column.positions is not None:
        first, last = column.positions.searchsorted((first, last)).tolist()
    found: list[Any] = numbers[first:last].tolist()
    return found


def _end_of(chosen: Sequence[_Chosen], of: int, *, is_first: bool) -> float | None:
    """The number of the row that has one and is the earliest or latest: by time, then by arrival."""
    ends: list[tuple[Part, int, float]] = []
    for some in chosen:
        numbers = list(_numbers_of(some, of))
        if numbers:
            ends.append((some[0], *numbers[0 if is_first else -1]))
    if not ends:
        return None
    # As a rule parts follow each other, and no times have to be compared.
    records = [part.record for part, _, _ in ends]
    if is_first:
        limit = min(record.time_max for record in records)
        ends = [end for end in ends if end[0].record.time_min <= limit]
    else:
        limit = max(record.time_min for record in records)
        ends = [end for end in ends if end[0].record.time_max >= limit]
    best = ends[0] if len(ends) == 1 else _furthest(ends, is_first=is_first)
    return best[2]


def _furthest(ends: Sequence[tuple[Part, int, float]], *, is_first: bool) -> tuple[Part, int, float]:
    """The one whose row is the earliest or latest."""
    times = [int(part.times_in_memory()[row]) for part, row, _ in ends]
    time = min(times) if is_first else max(times)
    tied = [end for end, its in zip(ends, times, strict=True) if its == time]
    if len(tied) == 1:
        return tied[0]

    def arrival(end: tuple[Part, int, float]) -> int:
        return int(end[0].sequences_in_memory()[end[1]])

    return min(tied, key=arrival) if is_first else max(tied, key=arrival)
