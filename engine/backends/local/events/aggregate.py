"""Aggregates over each user's rows, for all users at once, tested against intervals.

Every function returns a mask over the slots of the universe: users that have at least one selected row and
whose aggregate lies in the intervals. Rows of several tables, slices and parts are combined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from engine.backends.local.events.columns import NumberColumn, doubles_between, integers_between
from engine.backends.local.events.decimals import integer_bounds
from engine.backends.local.events.distinct import distinct_days, distinct_values
from engine.backends.local.events.model import ResolvedEventMatch
from engine.backends.local.events.part import Part, derived_of_all
from engine.backends.local.events.select import Universe, lasting_parts, selected
from engine.backends.local.events.sums import NumberRows, Totals, average_passing, sum_passing
from engine.backends.local.storage.arrays import Bools, Floats, Ints, Uint32s, smallest
from engine.criteria.model import Aggregate
from engine.criteria.ranges import Interval
from engine.values import Kind

DENSE_SHARE = 16
"""A part adds its counts as one dense array when at least one slot in sixteen has rows."""


def passing(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """Mask of slots that pass the step."""
    match step.aggregate:
        case Aggregate.COUNT:
            return _in_intervals(count_rows(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT_DAYS:
            return _in_intervals(distinct_days(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT:
            return _in_intervals(distinct_values(parts, step, universe), step.intervals)
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


@dataclass(frozen=True, slots=True)
class _Counts:
    """Row counts of some users (ascending), or (None) of every slot."""

    users: Uint32s | None
    counts: Ints

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes + (0 if self.users is None else self.users.nbytes)

    @classmethod
    def of_parts(cls, parts: Sequence[Part]) -> _Counts:
        """Counts over all rows of the parts, in the smaller form."""
        slots = max(part.record.user_max + 1 for part in parts)
        counts: Ints = np.zeros(slots, np.min_scalar_type(sum(part.record.peak for part in parts)))
        for part in parts:
            _add_whole_part(counts, part)
        users = np.flatnonzero(counts)
        if len(users) * DENSE_SHARE >= slots:
            return cls(None, smallest(counts))
        return cls(users.astype(np.uint32), smallest(counts[users]))

    def add_to(self, counts: Ints) -> None:
        """Adds these counts to an array with at least as many slots."""
        if self.users is None:
            counts[: len(self.counts)] += self.counts.astype(counts.dtype, copy=False)
        else:
            counts[self.users] += self.counts.astype(counts.dtype, copy=False)


def count_rows(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Ints:
    """Number of rows of each slot."""
    peak = sum(part.record.peak for part in parts)
    counts: Ints = np.zeros(universe.slots, np.min_scalar_type(peak))
    start, end = step.selection.time.start, step.selection.time.end
    lasting, others = lasting_parts(parts, step.selection, universe)
    if lasting:
        universe.looked_at += sum(part.record.users for part in lasting)
        derived_of_all(lasting, Aggregate.COUNT, lambda: _Counts.of_parts(lasting)).add_to(counts)
    for part in others:
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
    """Mask of counts that lie in an interval and are not 0."""
    passed = np.zeros(len(counts), np.bool_)
    for interval in intervals:
        low, high = integer_bounds(interval)
        passed |= integers_between(counts, max(1, low or 1), high)
    return passed


# --- numbers ------------------------------------------------------------------------------------------------


def _number_rows(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> list[NumberRows]:
    """Rows that have a number in `of`, and the numbers."""
    found = []
    for rows in selected(parts, step.selection, universe):
        pair = rows.with_column(step.of, Kind.NUMBER)
        if pair is not None and isinstance(pair[1], NumberColumn):
            found.append((pair[0], pair[1]))
    return found


def _totals(
    parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe
) -> tuple[Totals, Callable[[], list[NumberRows]]]:
    """The numbers to add up, and all rows."""
    lasting, others = lasting_parts(parts, step.selection, universe)
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


@dataclass(frozen=True, slots=True)
class _Extremes:
    """The least or greatest number of each slot, and the slots that have one."""

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
        """Adds others, with at most as many slots."""
        count = len(other.present)
        better(self.numbers[:count], other.numbers, out=self.numbers[:count])
        self.present[:count] |= other.present


def _extreme(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe, better: np.ufunc) -> Bools:
    lasting, others = lasting_parts(parts, step.selection, universe)
    extremes = _Extremes.of_rows(_number_rows(others, step, universe), universe.slots, better)
    if lasting:
        universe.looked_at += sum(part.record.users for part in lasting)

        def gathered() -> _Extremes:
            whole = Universe(lasting, None)
            return _Extremes.of_rows(_number_rows(lasting, step, whole), whole.slots, better)

        extremes.take_in(derived_of_all(lasting, (step.aggregate, step.of), gathered), better)
    return _numbers_pass(extremes.numbers, extremes.present, step.intervals)


def _at_end(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """FIRST and LAST: by time, at equal times by arrival."""
    lasting, others = lasting_parts(parts, step.selection, universe)
    ends = _Ends(np.zeros(universe.slots), np.zeros(universe.slots, np.bool_))
    low = min((part.record.time_min for part in lasting), default=0)
    high = max((part.record.time_max for part in lasting), default=0)
    if not lasting or any(part.overlaps(low, high + 1) for part in others):
        ends.approach(parts, step, universe)
        return _numbers_pass(ends.numbers, ends.present, step.intervals)

    def gathered() -> _Ends:
        whole = Universe(lasting, None)
        found = _Ends(np.zeros(whole.slots), np.zeros(whole.slots, np.bool_))
        found.approach(lasting, step, whole)
        return found

    universe.looked_at += sum(part.record.users for part in lasting)
    before = [part for part in others if part.record.time_max < low]
    after = [part for part in others if part.record.time_min > high]
    further, nearer = (after, before) if step.aggregate is Aggregate.FIRST else (before, after)
    ends.approach(further, step, universe)
    ends.overrule(derived_of_all(lasting, (step.aggregate, step.of), gathered))
    ends.approach(nearer, step, universe)
    return _numbers_pass(ends.numbers, ends.present, step.intervals)


@dataclass(frozen=True, slots=True)
class _Ends:
    """The first or last number of each slot so far, and the slots that have one."""

    numbers: Floats
    present: Bools

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.present.nbytes

    def overrule(self, nearer: _Ends) -> None:
        """Takes over the numbers of a time range nearer to the wanted end. It has at most as many slots."""
        count = len(nearer.present)
        np.copyto(self.numbers[:count], nearer.numbers, where=nearer.present)
        self.present[:count] |= nearer.present

    def approach(self, parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> None:
        """Continues with parts nearer to the wanted end than all before."""
        first = step.aggregate is Aggregate.FIRST
        sign = 1 if first else -1
        furthest = np.iinfo(np.int64).max
        ordered = _approaching(parts, first)
        compared = universe.slots if any(overlaps for _, overlaps in ordered) else 0
        times, sequences = np.full(compared, furthest), np.full(compared, furthest)
        for part, overlaps in ordered:
            for rows, column in _number_rows((part,), step, universe):
                ends = rows.starts[:-1] if first else rows.starts[1:] - 1
                slots = rows.slots
                if overlaps:
                    # Times left by an earlier range are further from the end than anything in this one.
                    time = sign * rows.at(rows.part.times())[ends]
                    sequence = sign * rows.at(rows.part.sequences())[ends]
                    nearer = (time < times[slots]) | ((time == times[slots]) & (sequence < sequences[slots]))
                    slots, ends = slots[nearer], ends[nearer]
                    times[slots] = time[nearer]
                    sequences[slots] = sequence[nearer]
                self.numbers[slots] = column.doubles[ends]
                self.present[slots] = True


def _approaching(parts: Sequence[Part], first: bool) -> list[tuple[Part, bool]]:
    """Parts from the furthest to the nearest to the wanted end of time, and whether each overlaps another in
    time. A part without overlap overrides all before it.
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
