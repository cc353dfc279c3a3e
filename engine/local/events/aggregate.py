"""Aggregates over a user's rows, for all users at once, tested against intervals.

Every function answers a mask over the slots of the universe: the users with at least one row taking part
whose aggregate lies in the intervals. Rows of several tables, slices and parts add up here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.criteria.model import Aggregate
from engine.criteria.ranges import Interval
from engine.local.events.arrays import Bools, Floats, Int64s, Ints, sorted_distinct
from engine.local.events.columns import (
    Column,
    DictionaryColumn,
    NumberColumn,
    doubles_between,
    integers_between,
)
from engine.local.events.days import local_days
from engine.local.events.decimals import integer_bounds
from engine.local.events.model import ResolvedEventMatch, ResolvedSelection
from engine.local.events.part import Part, derived_of_all
from engine.local.events.select import Universe, selected
from engine.local.events.sums import NumberRows, Totals, average_passing, sum_passing
from engine.values import MICROS_PER_DAY, Kind, Value

DENSE_SHARE = 16
"""A part adds its counts as one dense array when at least one in so many slots has rows in it."""

_PAIR_MAX = 1 << 62

FLAGS_PER_PAIR_MAX = 16
"""Distinct pairs are found with a flag for each possible pair up to so many flags a pair, else by sorting."""


def passing(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """Which slots pass the step."""
    match step.aggregate:
        case Aggregate.COUNT:
            return _in_intervals(count_rows(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT_DAYS:
            return _in_intervals(_distinct_days(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT:
            return _in_intervals(_distinct_values(parts, step, universe), step.intervals)
        case Aggregate.SUM:
            totals, rows = _totals(parts, step, universe)
            return sum_passing(totals, rows, step.intervals)
        case Aggregate.AVERAGE:
            totals, rows = _totals(parts, step, universe)
            return average_passing(totals, rows, step.intervals)
        case Aggregate.MIN:
            return _extreme(parts, step, universe, np.minimum)
        case Aggregate.MAX:
            return _extreme(parts, step, universe, np.maximum)
        case Aggregate.FIRST | Aggregate.LAST:
            return _at_end(parts, step, universe)


# --- counting -----------------------------------------------------------------------------------------------


def count_rows(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    """How many rows each slot has."""
    peak = sum(part.record.peak for part in parts)
    counts: Ints = np.zeros(universe.slots, np.min_scalar_type(peak))
    start, end = step.selection.time.start, step.selection.time.end
    for part in parts:
        if universe.ids is None and step.selection.where is None and part.within(start, end):
            universe.looked_at += part.record.users
            _add_whole_part(counts, part)
            continue
        for rows in selected((part,), step.selection, universe):
            counts[rows.slots] += rows.counts.astype(counts.dtype)
    return counts


def _add_whole_part(counts: Ints, part: Part) -> None:
    if part.record.users * DENSE_SHARE >= len(counts):
        dense = part.dense_counts()
        counts[: len(dense)] += dense
    else:
        users, user_counts = part.live_counts()
        counts[users] += user_counts


def _in_intervals(counts: Ints, intervals: Iterable[Interval]) -> Bools:
    """Which counts lie in an interval and are not 0."""
    passed = np.zeros(len(counts), np.bool_)
    for interval in intervals:
        low, high = integer_bounds(interval)
        passed |= integers_between(counts, max(1, low or 1), high)
    return passed


# --- distinct -----------------------------------------------------------------------------------------------


def _distinct_days(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    slots, days = [], []
    for rows in selected(parts, step.selection, universe):
        row_days = local_days(rows.at(rows.part.times()), step.time_zone)
        row_slots = rows.row_slots
        # Most repeats are neighbours, and dropping them here saves sorting them.
        first = np.ones(len(row_days), np.bool_)
        first[1:] = (row_days[1:] != row_days[:-1]) | (row_slots[1:] != row_slots[:-1])
        slots.append(row_slots[first])
        days.append(row_days[first])
    if not slots:
        return np.zeros(universe.slots, np.int64)
    codes = np.concatenate(days)
    codes -= codes.min()
    return distinct_pairs(np.concatenate(slots), codes, universe.slots)


def _distinct_values(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    slots: list[Ints] = []
    columns: list[Column] = []
    for rows in selected(parts, step.selection, universe):
        for kind in Kind:
            found = rows.with_column(step.of, kind)
            if found is not None:
                slots.append(found[0].row_slots)
                columns.append(found[1])
    if not slots:
        return np.zeros(universe.slots, np.int64)
    codes = _integer_codes(columns, universe.slots)
    if codes is None:
        values = _ValueCodes()
        codes = [values.codes_of(column) for column in columns]
    return distinct_pairs(np.concatenate(slots), np.concatenate(codes), universe.slots)


def _integer_codes(columns: list[Column], slot_count: int) -> list[Int64s] | None:
    """Codes without looking values up: the integers of the numbers, if there is nothing else and they are in
    a range narrow enough for `distinct_pairs`.
    """
    exponent = max((column.exponent for column in columns if isinstance(column, NumberColumn)), default=0)
    scaled: list[tuple[Ints, int]] = []
    low = high = 0
    for column in columns:
        if not isinstance(column, NumberColumn) or column.mantissas is None:
            return None
        factor = 10 ** (exponent - column.exponent)
        low = min(low, int(column.mantissas.min()) * factor)
        high = max(high, int(column.mantissas.max()) * factor)
        scaled.append((column.mantissas, factor))
    if (high - low + 1) * slot_count > _PAIR_MAX:
        return None
    return [mantissas.astype(np.int64) * factor - low for mantissas, factor in scaled]


class _ValueCodes:
    """Numbers values across parts: one number for each different value of each kind."""

    def __init__(self) -> None:
        # By kind first: as keys of one dictionary 1.0, True and the instant 1 would be the same.
        self._numbers: dict[Kind, dict[Value, int]] = {kind: {} for kind in Kind}
        self._given = 0

    def codes_of(self, column: Column) -> Int64s:
        if isinstance(column, DictionaryColumn):
            used, places = np.unique(column.codes, return_inverse=True)
            values = column.entries.values
            return self._numbered(column.entries.kind, [values[code] for code in used.tolist()])[places]
        if isinstance(column, NumberColumn):
            numbers, places = np.unique(column.doubles, return_inverse=True)
            return self._numbered(Kind.NUMBER, numbers.tolist())[places]
        times, places = np.unique(column.times, return_inverse=True)
        return self._numbered(Kind.TIME, times.tolist())[places]

    def _numbered(self, kind: Kind, values: list[Value]) -> Int64s:
        numbers = self._numbers[kind]
        codes = []
        for value in values:
            code = numbers.get(value)
            if code is None:
                code = numbers[value] = self._given
                self._given += 1
            codes.append(code)
        return np.array(codes, np.int64)


def distinct_pairs(slots: Ints, codes: Int64s, slot_count: int) -> Ints:
    """For each slot with how many different codes, from 0 up, it is paired."""
    code_count = int(codes.max()) + 1
    if slot_count * code_count <= FLAGS_PER_PAIR_MAX * len(slots):
        flags = np.zeros((code_count, slot_count), np.uint8)
        flags[codes, slots] = 1
        counts: Ints = np.zeros(slot_count, np.min_scalar_type(code_count))
        for code_flags in flags:
            counts += code_flags
        return counts
    pairs = sorted_distinct(slots.astype(np.int64) * code_count + codes)
    return np.bincount(pairs // code_count, minlength=slot_count)


# --- numbers ------------------------------------------------------------------------------------------------


def _number_rows(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> list[NumberRows]:
    """The rows that have a number `of`, and the numbers."""
    found = []
    for rows in selected(parts, step.selection, universe):
        pair = rows.with_column(step.of, Kind.NUMBER)
        if pair is not None and isinstance(pair[1], NumberColumn):
            found.append((pair[0], pair[1]))
    return found


def _totals(
    parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe
) -> tuple[Totals, Callable[[], list[NumberRows]]]:
    """What there is to add up, and all its rows."""
    lasting, others = _lasting_parts(parts, step.selection, universe)
    rows = _number_rows(others, step, universe)
    totals = Totals.of_rows(rows, universe.slots)
    if not lasting:
        return totals, lambda: rows
    universe.looked_at += sum(part.record.users for part in lasting)

    def added() -> Totals:
        whole = Universe(lasting, None)
        return Totals.of_rows(_number_rows(lasting, step, whole), whole.slots).kept()

    totals = totals.plus(derived_of_all(lasting, (Totals, step.of), added))
    return totals, lambda: _number_rows(parts, step, universe)


def _lasting_parts(
    parts: Sequence[Part], selection: ResolvedSelection, universe: Universe
) -> tuple[list[Part], list[Part]]:
    """The parts all of whose rows take part and that are likely to be the same at the next question, and
    the others: those in memory, at an edge of the window, or with the last day's rows, where more arrive.
    """
    if universe.ids is not None or selection.where is not None:
        return [], list(parts)
    last_day = max(part.record.time_max for part in parts) // MICROS_PER_DAY
    lasting: list[Part] = []
    others: list[Part] = []
    for part in parts:
        lasts = part.state is not None and part.record.time_max // MICROS_PER_DAY < last_day
        whole = part.within(selection.time.start, selection.time.end)
        (lasting if lasts and whole else others).append(part)
    return lasting, others


@dataclass(frozen=True, slots=True)
class _Extremes:
    """The least or the greatest number of each slot, and which slots have one."""

    numbers: Floats
    present: Bools

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.present.nbytes

    @classmethod
    def of_rows(cls, rows: Iterable[NumberRows], slot_count: int, better: np.ufunc) -> _Extremes:
        extremes = np.full(slot_count, np.inf if better is np.minimum else -np.inf)
        present = np.zeros(slot_count, np.bool_)
        for piece, numbers in rows:
            slots = piece.slots
            best = better.reduceat(numbers.doubles, piece.starts[:-1])
            extremes[slots] = better(extremes[slots], best)
            present[slots] = True
        return cls(extremes, present)

    def take_in(self, other: _Extremes, better: np.ufunc) -> None:
        """Adds the others, which have no more slots than these."""
        count = len(other.present)
        better(self.numbers[:count], other.numbers, out=self.numbers[:count])
        self.present[:count] |= other.present


def _extreme(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe, better: np.ufunc) -> Bools:
    lasting, others = _lasting_parts(parts, step.selection, universe)
    extremes = _Extremes.of_rows(_number_rows(others, step, universe), universe.slots, better)
    if lasting:
        universe.looked_at += sum(part.record.users for part in lasting)

        def gathered() -> _Extremes:
            whole = Universe(lasting, None)
            return _Extremes.of_rows(_number_rows(lasting, step, whole), whole.slots, better)

        extremes.take_in(derived_of_all(lasting, (step.aggregate, step.of), gathered), better)
    return _numbers_pass(extremes.numbers, extremes.present, step.intervals)


def _at_end(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """FIRST and LAST: by time, of equal times by arrival."""
    first = step.aggregate is Aggregate.FIRST
    sign = 1 if first else -1
    furthest = np.iinfo(np.int64).max
    ordered = _approaching(parts, first)
    compared = universe.slots if any(overlaps for _, overlaps in ordered) else 0
    times, sequences = np.full(compared, furthest), np.full(compared, furthest)
    numbers = np.zeros(universe.slots)
    present = np.zeros(universe.slots, np.bool_)
    for part, overlaps in ordered:
        for rows, column in _number_rows((part,), step, universe):
            ends = rows.starts[:-1] if first else rows.starts[1:] - 1
            slots = rows.slots
            if overlaps:
                # What an earlier stretch of time left in `times` is further than anything of this one.
                time = sign * rows.at(rows.part.times())[ends]
                sequence = sign * rows.at(rows.part.sequences())[ends]
                nearer = (time < times[slots]) | ((time == times[slots]) & (sequence < sequences[slots]))
                slots, ends = slots[nearer], ends[nearer]
                times[slots] = time[nearer]
                sequences[slots] = sequence[nearer]
            numbers[slots] = column.doubles[ends]
            present[slots] = True
    return _numbers_pass(numbers, present, step.intervals)


def _approaching(parts: Sequence[Part], first: bool) -> list[tuple[Part, bool]]:
    """The parts from the furthest to the nearest to the wanted end of time, and whether each has a time in
    common with another. One that has none overrules all before it.
    """
    ordered = sorted(parts, key=lambda part: part.record.time_min)
    stretches: list[list[Part]] = []
    end = None
    for part in ordered:
        if end is None or part.record.time_min > end:
            stretches.append([])
        stretches[-1].append(part)
        end = part.record.time_max if end is None else max(end, part.record.time_max)
    if first:
        stretches.reverse()
    return [(part, len(stretch) > 1) for stretch in stretches for part in stretch]


def _numbers_pass(numbers: Floats, present: Bools, intervals: Iterable[Interval]) -> Bools:
    passed = np.zeros(len(numbers), np.bool_)
    for interval in intervals:
        passed |= doubles_between(numbers, interval)
    return passed & present
