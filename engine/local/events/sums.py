"""SUM and AVERAGE, exact in decimals.

Columns of integers with decimal exponents add up as 64-bit integers, as long as no sum can overflow.
Otherwise doubles decide the users whose sum is certainly inside or outside, by a bound on the rounding error,
and only those near a limit of the test are added up with `decimal`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

import numpy as np

from engine.criteria.ranges import Interval
from engine.local.events.arrays import Bools, Floats, Int64s, Ints, Positions, runs
from engine.local.events.columns import NumberColumn, integers_between
from engine.local.events.decimals import exact_sum, integer_bounds, shortest, sum_in
from engine.local.events.select import Rows

_INTEGER_MAX = 1 << 62
_DOUBLE_INTEGER_MAX = 1 << 53

_ROUNDING = 2.0**-50
"""More than the relative error of a double, of its shortest decimal, and of one addition, together."""
_TINY = 1e-323
"""More than the absolute error of those three among the smallest doubles."""

NumberRows = tuple[Rows, NumberColumn]
Intervals = Sequence[Interval]


def sum_passing(rows: Sequence[NumberRows], slots: int, intervals: Intervals) -> Bools:
    """Which slots have rows and a sum in the intervals."""
    gathered = _Gathered(rows, slots)
    if gathered.bound >= _INTEGER_MAX:
        return _decided(gathered, intervals, average=False)
    totals = gathered.integer_totals()
    passed = np.zeros(slots, np.bool_)
    for interval in intervals:
        passed |= integers_between(totals, *integer_bounds(interval, gathered.exponent))
    return passed & (gathered.counts > 0)


def average_passing(rows: Sequence[NumberRows], slots: int, intervals: Intervals) -> Bools:
    """Which slots have rows and an average in the intervals."""
    gathered = _Gathered(rows, slots)
    if gathered.bound >= _INTEGER_MAX:
        return _decided(gathered, intervals, average=True)
    totals = gathered.integer_totals()
    passed = np.zeros(slots, np.bool_)
    for interval in intervals:
        inside = _average_between(totals, gathered.counts, gathered.exponent, interval)
        if inside is None:
            return _decided(gathered, intervals, average=True)
        passed |= inside
    return passed & (gathered.counts > 0)


class _Gathered:
    """The numbers to add up. `exponent` makes integers of them all, and no sum of some of them exceeds
    `bound`, which is `_INTEGER_MAX` when there is no such exponent.
    """

    def __init__(self, rows: Sequence[NumberRows], slots: int) -> None:
        self.rows = rows
        self._slots = slots
        self._row_slots = np.concatenate([np.zeros(0, np.int64), *(piece.row_slots for piece, _ in rows)])
        self.counts: Int64s = np.bincount(self._row_slots, minlength=slots)
        self.exponent = max((numbers.exponent for _, numbers in rows), default=0)
        self.bound = sum(self._bound(numbers) for _, numbers in rows)

    def _bound(self, numbers: NumberColumn) -> int:
        mantissas = numbers.mantissas
        if mantissas is None:
            return _INTEGER_MAX
        return (
            max(abs(int(mantissas.min())), abs(int(mantissas.max()))) * len(numbers) * self._factor(numbers)
        )

    def _factor(self, numbers: NumberColumn) -> int:
        return int(10 ** (self.exponent - numbers.exponent))

    def integer_totals(self) -> Int64s:
        """The sums × 10^exponent. For a bound below `_INTEGER_MAX`."""
        integers = [(piece, numbers, numbers.mantissas) for piece, numbers in self.rows]
        if self.bound <= _DOUBLE_INTEGER_MAX:
            # Doubles add such integers without rounding, and numpy adds doubles by slot fastest.
            weights = [m * float(self._factor(numbers)) for _, numbers, m in integers if m is not None]
            added = np.bincount(self._row_slots, np.concatenate([np.zeros(0), *weights]), self._slots)
            return added.astype(np.int64)
        totals = np.zeros(self._slots, np.int64)
        for piece, numbers, mantissas in integers:
            assert mantissas is not None
            partial = np.add.reduceat(mantissas.astype(np.int64), piece.starts[:-1])
            totals[piece.slots] += partial * self._factor(numbers)
        return totals


# --- integers -----------------------------------------------------------------------------------------------


def _average_between(totals: Int64s, counts: Int64s, exponent: int, interval: Interval) -> Bools | None:
    """Which totals × 10^-exponent / counts lie in the interval, compared as integers; None when a product
    could overflow.
    """
    passed = np.ones(len(totals), np.bool_)
    for limit, above, included in (
        (interval.low, True, interval.low_included),
        (interval.high, False, interval.high_included),
    ):
        if limit is None:
            continue
        # limit × 10^exponent as a fraction: numerator / 10^further.
        scaled_limit = shortest(limit).scaleb(exponent)
        further = max(0, -int(scaled_limit.as_tuple().exponent))
        numerator = int(scaled_limit.scaleb(further))
        largest_total = max(1, int(np.abs(totals).max(initial=0))) * 10**further
        largest_limit = max(1, int(counts.max(initial=0))) * abs(numerator)
        if max(largest_total, largest_limit) >= _INTEGER_MAX:
            return None
        left, right = totals * 10**further, counts * numerator
        if above:
            passed &= left >= right if included else left > right
        else:
            passed &= left <= right if included else left < right
    return passed


# --- doubles first, decimals where they cannot tell ---------------------------------------------------------


class _Approximation:
    """Sums of doubles, and how far the exact sums can be from them."""

    def __init__(self, gathered: _Gathered) -> None:
        self.rows = gathered.rows
        counts = gathered.counts
        self.sums = np.zeros(len(counts))
        sizes = np.zeros(len(counts))
        with np.errstate(over="ignore", invalid="ignore"):
            for piece, numbers in self.rows:
                starts, slots = piece.starts[:-1], piece.slots
                self.sums[slots] += np.add.reduceat(numbers.doubles, starts)
                sizes[slots] += np.add.reduceat(np.abs(numbers.doubles), starts)
            self.errors: Floats = (counts + 8) * (sizes * _ROUNDING + _TINY)

    def exact(self, slots: Bools) -> Iterable[tuple[int, Decimal]]:
        """The exact sums of some slots."""
        row_slots, doubles = [], []
        for piece, numbers in self.rows:
            wanted = slots[piece.row_slots]
            row_slots.append(piece.row_slots[wanted].astype(np.int64))
            doubles.append(numbers.doubles[wanted])
        if not row_slots:
            return
        found = np.concatenate(row_slots)
        order: Positions = np.argsort(found, kind="stable")
        found, values = found[order], np.concatenate(doubles)[order]
        starts = runs(found)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            yield int(found[start]), exact_sum(values[start:end].tolist())


def _decided(gathered: _Gathered, intervals: Intervals, *, average: bool) -> Bools:
    approximation, counts = _Approximation(gathered), gathered.counts
    present = counts > 0
    divisors: Ints = np.where(present & average, counts, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = approximation.sums / divisors
        errors = approximation.errors / divisors + np.abs(numbers) * _ROUNDING + _TINY
        low, high = numbers - errors, numbers + errors
        inside = np.zeros(len(counts), np.bool_)
        outside = np.ones(len(counts), np.bool_)
        for interval in intervals:
            lower = -np.inf if interval.low is None else interval.low
            upper = np.inf if interval.high is None else interval.high
            inside |= (low > lower) & (high < upper)
            outside &= (high < lower) | (low > upper)
    passed = inside & present
    for slot, total in approximation.exact(present & ~inside & ~outside):
        passed[slot] = sum_in(total, int(counts[slot]) if average else 1, intervals)
    return passed
