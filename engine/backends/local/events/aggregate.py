"""Aggregates over each user's rows, for all users at once, tested against intervals.

Every function returns a mask over the slots of the universe: users that have at least one selected row and
whose aggregate lies in the intervals. Rows of several tables, slices and parts are combined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from engine.backends.local.events.by_value import is_by_value, users_by_value
from engine.backends.local.events.columns import NumberColumn, doubles_between, integers_between
from engine.backends.local.events.decimals import MANTISSA_MAX, integer_bounds, powers_to_one_exponent
from engine.backends.local.events.distinct import distinct_days, distinct_values
from engine.backends.local.events.joined_rows import JoinedRows
from engine.backends.local.events.model import ResolvedEventMatch, RowCondition
from engine.backends.local.events.part import Part
from engine.backends.local.events.select import (
    RowsByTime,
    Universe,
    few_rows,
    is_ordered,
    kept_of_all,
    lasting_in_window,
    lasting_parts,
    selected,
)
from engine.backends.local.events.sums import NumberRows, Totals, average_passing, sum_passing
from engine.backends.local.storage.arrays import Bools, Floats, Ints, Uint32s, apply_at, runs, smallest
from engine.backends.local.storage.bitmaps import bitmap_of
from engine.criteria.conditions import WhereAttribute
from engine.criteria.model import Aggregate
from engine.criteria.operators import ResolvedTest
from engine.criteria.ranges import Interval
from engine.values import Kind

FEW_JOINED_ROWS_MAX = 1 << 14
"""Rows of parts up to which those in the window are sorted by user instead of counted for every user."""

DENSE_SHARE = 16
"""A part adds its counts as one dense array when at least one slot in sixteen has rows."""


def passing(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """Mask of slots that pass the step."""
    match step.aggregate:
        case Aggregate.COUNT:
            return in_intervals(count_rows(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT_DAYS:
            return in_intervals(distinct_days(parts, step, universe), step.intervals)
        case Aggregate.DISTINCT:
            return in_intervals(distinct_values(parts, step, universe), step.intervals)
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


def few_passing(parts: Sequence[Part], step: ResolvedEventMatch, check: Callable[[], None]) -> BitMap | None:
    """The users that pass a count over stored parts of few rows each; None for any other question. Users
    without rows take no time.
    """
    if step.aggregate is not Aggregate.COUNT or step.selection.where is not None:
        return None
    few, others = few_rows(parts)
    if others or sum(part.record.rows for part in few) > FEW_JOINED_ROWS_MAX:
        return None
    time = step.selection.time
    users = np.sort(RowsByTime.of_parts(few, check).users_between(time.start, time.end))
    starts = runs(users)
    return bitmap_of(users[starts[:-1]][in_intervals(np.diff(starts), step.intervals)])


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
            add_whole_part(counts, part)
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
    if universe.is_one_user:
        # Its rows need not be told apart.
        rows_of_user = sum(len(rows) for rows in selected(parts, step.selection, universe))
        return np.array([rows_of_user])
    peak = sum(part.record.peak for part in parts)
    counts: Ints = np.zeros(universe.slots, np.min_scalar_type(peak))
    start, end = step.selection.time.start, step.selection.time.end
    lasting, others = lasting_parts(parts, step.selection, universe)
    if universe.ids is None and isinstance(step.selection.where, WhereAttribute):
        others = _add_by_value(counts, others, step, step.selection.where, universe)
    if universe.ids is None and step.selection.where is not None:
        others = _add_joined(counts, others, step, step.selection.where, universe)
    if lasting:
        kept = kept_of_all(lasting, Aggregate.COUNT, universe, lambda _: _Counts.of_parts(lasting))
        kept.add_to(counts)
    if universe.ids is None and step.selection.where is None:
        others = _add_ordered(counts, others, step, universe)
    row_slots: list[Ints] = []
    for part in others:
        universe.check()
        if universe.ids is None and step.selection.where is None and part.within(start, end):
            universe.looked_at += part.record.users
            add_whole_part(counts, part)
            continue
        row_slots += (rows.row_slots for rows in selected((part,), step.selection, universe))
    if row_slots:
        apply_at(np.add, counts, np.concatenate(row_slots), 1)
    return counts


def _add_by_value(
    counts: Ints,
    parts: Sequence[Part],
    step: ResolvedEventMatch,
    where: WhereAttribute[int, ResolvedTest],
    universe: Universe,
) -> list[Part]:
    """Adds the rows of lasting parts whose value passes, if values are few; returns the other parts."""
    lasting, others = lasting_in_window(parts, step.selection)
    if not lasting or not is_by_value(where):
        return list(parts)
    found = users_by_value(lasting, where, universe.check)
    if found is None:
        return list(parts)
    for users in found:
        universe.looked_at += len(users)
        apply_at(np.add, counts, users, 1)
    return others


def _add_joined(
    counts: Ints, parts: Sequence[Part], step: ResolvedEventMatch, where: RowCondition, universe: Universe
) -> list[Part]:
    """Adds the rows of stored parts that pass, those of lasting parts and those of others together; returns
    the parts that are left.
    """
    if not parts:
        return []
    lasting, others = lasting_in_window(parts, step.selection)
    left = list(parts)
    for some in (lasting, [part for part in others if part.is_stored and part.has_times]):
        whole = [part for part in some if not part.has_tombstones]
        time = step.selection.time
        rows = JoinedRows(whole, universe.check)
        users = rows.users_passing(where, time) if len(whole) > 1 else None
        if users is None:
            continue
        universe.looked_at += sum(part.record.rows for part in whole)
        apply_at(np.add, counts, users, 1)
        left = [part for part in left if not any(part is each for each in whole)]
    return left


def _add_ordered(
    counts: Ints, parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe
) -> list[Part]:
    """Adds the rows of the parts whose rows are in order of time; returns the other parts."""
    few, others = few_rows(parts)
    ordered = [[part] for part in others if is_ordered(part, step.selection)]
    if few:
        ordered.append(few)
    if not ordered:
        return others
    time = step.selection.time
    users = np.concatenate(
        [RowsByTime.of_parts(some, universe.check).users_between(time.start, time.end) for some in ordered]
    )
    universe.looked_at += len(users)
    apply_at(np.add, counts, users, 1)
    taken = {id(part) for some in ordered for part in some}
    return [part for part in others if id(part) not in taken]


def add_whole_part(counts: Ints, part: Part) -> None:
    """Adds the rows of a part to the counts of dense ids."""
    if part.record.users * DENSE_SHARE >= len(counts):
        dense = part.dense_counts()
        counts[: len(dense)] += dense
    else:
        users, user_counts = part.live_counts()
        counts[users] += user_counts


def in_intervals(counts: Ints, intervals: Iterable[Interval]) -> Bools:
    """Mask of counts that lie in an interval and are not 0."""
    passed = np.zeros(len(counts), np.bool_)
    for least, most in row_counts_of(intervals):
        passed |= integers_between(counts, least, most)
    return passed


def row_counts_of(intervals: Iterable[Interval]) -> tuple[tuple[int, int | None], ...]:
    """The least and the most rows of each interval, one at least; None = any number."""
    bounds = map(integer_bounds, intervals)
    return tuple((max(1, low or 1), high) for low, high in bounds)


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

    def added(whole: Universe) -> Totals:
        return Totals.of_rows(_number_rows(lasting, step, whole), whole.slots).kept()

    totals = totals.plus(kept_of_all(lasting, (Totals, step.of), universe, added))
    return totals, lambda: _number_rows(parts, step, universe)


@dataclass(frozen=True, slots=True)
class _OneEach:
    """One number for each slot, such as the least or the last one, and the slots that have one."""

    numbers: Floats
    present: Bools

    @classmethod
    def none(cls, slots: int, number: float = 0.0) -> _OneEach:
        """No slot has one."""
        return cls(np.full(slots, number), np.zeros(slots, np.bool_))

    @property
    def nbytes(self) -> int:
        return self.numbers.nbytes + self.present.nbytes

    def pass_(self, intervals: Iterable[Interval]) -> Bools:
        """Mask of slots with a number in the intervals."""
        passed = np.zeros(len(self.numbers), np.bool_)
        for interval in intervals:
            passed |= doubles_between(self.numbers, interval)
        return passed & self.present


def _extreme(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe, better: np.ufunc) -> Bools:
    """MIN and MAX."""
    lasting, others = lasting_parts(parts, step.selection, universe)

    def best_of(some: Sequence[Part], within: Universe) -> _OneEach:
        return _best(_number_rows(some, step, within), within.slots, better)

    best = best_of(others, universe)
    if lasting:
        tag = (step.aggregate, step.of)
        kept = kept_of_all(lasting, tag, universe, lambda whole: best_of(lasting, whole))
        count = len(kept.present)
        better(best.numbers[:count], kept.numbers, out=best.numbers[:count])
        best.present[:count] |= kept.present
    return best.pass_(step.intervals)


def _best(rows: Sequence[NumberRows], slots: int, better: np.ufunc) -> _OneEach:
    """The least or the greatest number of each slot."""
    worst = np.inf if better is np.minimum else -np.inf
    pieces = [(numbers.mantissas, numbers.exponent) for _, numbers in rows if numbers.mantissas is not None]
    found = powers_to_one_exponent(pieces) if pieces and len(pieces) == len(rows) else None
    if found is None:
        doubles = _OneEach.none(slots, worst)
        for piece, numbers in rows:
            apply_at(better, doubles.numbers, piece.row_slots, numbers.doubles)
            doubles.present[piece.row_slots] = True
        return doubles
    powers, exponent = found
    none = MANTISSA_MAX + 1 if better is np.minimum else -MANTISSA_MAX - 1
    mantissas = np.full(slots, none, np.int64)
    for (piece, _), (own, _), power in zip(rows, pieces, powers, strict=True):
        apply_at(better, mantissas, piece.row_slots, own.astype(np.int64) * power)
    best = _OneEach(np.full(slots, worst), mantissas != none)
    found_at = np.flatnonzero(best.present)
    best.numbers[found_at] = mantissas[found_at] / 10.0**exponent
    return best


def _at_end(parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> Bools:
    """FIRST and LAST: by time, at equal times by arrival."""
    lasting, others = lasting_parts(parts, step.selection, universe)
    ends = _OneEach.none(universe.slots)
    low = min((part.live_start for part in lasting), default=0)
    high = max((part.record.time_max for part in lasting), default=0)
    if not lasting or any(part.overlaps(low, high + 1) for part in others):
        _approach(ends, parts, step, universe)
        return ends.pass_(step.intervals)

    def gathered(whole: Universe) -> _OneEach:
        found = _OneEach.none(whole.slots)
        _approach(found, lasting, step, whole)
        return found

    before = [part for part in others if part.record.time_max < low]
    # Rows below a part's floor are removed: what is live of it may begin later than the part.
    after = [part for part in others if part.live_start > high]
    further, nearer = (after, before) if step.aggregate is Aggregate.FIRST else (before, after)
    _approach(ends, further, step, universe)
    kept = kept_of_all(lasting, (step.aggregate, step.of), universe, gathered)
    count = len(kept.present)
    np.copyto(ends.numbers[:count], kept.numbers, where=kept.present)
    ends.present[:count] |= kept.present
    _approach(ends, nearer, step, universe)
    return ends.pass_(step.intervals)


def _approach(ends: _OneEach, parts: Sequence[Part], step: ResolvedEventMatch, universe: Universe) -> None:
    """Replaces ends by those of parts nearer to the wanted end of time than all before."""
    first = step.aggregate is Aggregate.FIRST
    sign = 1 if first else -1
    furthest = np.iinfo(np.int64).max
    ordered = _approaching(parts, first)
    compared = universe.slots if any(overlaps for _, overlaps in ordered) else 0
    times, sequences = np.full(compared, furthest), np.full(compared, furthest)
    for part, overlaps in ordered:
        for rows, column in _number_rows((part,), step, universe):
            at = rows.starts[:-1] if first else rows.starts[1:] - 1
            slots = rows.slots
            if overlaps:
                # Times left by an earlier range are further from the end than anything in this one.
                time = sign * rows.at(rows.part.times())[at]
                sequence = sign * rows.at(rows.part.sequences())[at]
                nearer = (time < times[slots]) | ((time == times[slots]) & (sequence < sequences[slots]))
                slots, at = slots[nearer], at[nearer]
                times[slots] = time[nearer]
                sequences[slots] = sequence[nearer]
            ends.numbers[slots] = column.at(at).doubles
            ends.present[slots] = True


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
