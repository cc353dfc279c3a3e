"""SUM and AVERAGE, exact in decimals.

Columns of integers with a decimal exponent add up as 64-bit integers when no sum can overflow. Otherwise
doubles, with a bound on their rounding error, decide the users whose sum is clearly inside or outside. Only
sums near a limit of the test are computed with `decimal`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, overload

import numpy as np

from engine.backends.local.events.columns import NumberColumn, integers_between
from engine.backends.local.events.decimals import exact_sum, integer_bounds, shortest, sum_in
from engine.backends.local.events.select import Rows
from engine.backends.local.storage.arrays import (
    Bools,
    Floats,
    Int64s,
    Ints,
    Positions,
    apply_at,
    runs,
    smallest,
)
from engine.criteria.ranges import Interval

_INTEGER_MAX = 1 << 62

_ROUNDING = 2.0**-50
"""Relative: exceeds the errors of a double, its shortest decimal and one addition together."""
_TINY = 1e-323
"""Absolute: exceeds those three errors among the smallest doubles."""

_NO_SUMS = np.zeros(0, np.int64)

NumberRows = tuple[Rows, NumberColumn]
Intervals = Sequence[Interval]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums × 10^`exponent` and counts by slot. The sum of any subset of the numbers stays within `bound`.
    `bound` is `_INTEGER_MAX` when no exponent fits; then there are no sums.
    """

    sums: Int64s
    counts: Ints
    exponent: int
    bound: int

    @property
    def are_exact(self) -> bool:
        """Whether there are sums."""
        return self.bound < _INTEGER_MAX

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.counts.nbytes

    @classmethod
    def of_rows(cls, rows: Sequence[NumberRows], slots: int) -> Totals:
        """Adds the numbers by slot."""
        exponent = max((numbers.exponent for _, numbers in rows), default=0)
        bound = sum(_bound(numbers, exponent) for _, numbers in rows)
        # Each number is added together with this unit, whose multiple in a sum is then the count: a sum lies
        # within half of it.
        unit_bits = (2 * bound).bit_length()
        peak = sum(piece.part.record.peak for piece, _ in rows)
        if bound < _INTEGER_MAX and (peak + 1) << unit_bits <= _INTEGER_MAX:
            added = _added(rows, slots, exponent, 1 << unit_bits)
            counts: Int64s = added + (1 << unit_bits >> 1) >> unit_bits
            return cls(added - (counts << unit_bits), counts, exponent, bound)
        counts = np.zeros(slots, np.int64)
        for piece, _ in rows:
            apply_at(np.add, counts, piece.row_slots, 1)
        if bound >= _INTEGER_MAX:
            return cls(_NO_SUMS, counts, exponent, _INTEGER_MAX)
        return cls(_added(rows, slots, exponent, 0), counts, exponent, bound)

    def plus(self, other: Totals) -> Totals:
        """The totals of both. The other has at most as many slots."""
        exponent = max(self.exponent, other.exponent)
        factor, other_factor = (10 ** (exponent - totals.exponent) for totals in (self, other))
        bound = self.bound * factor + other.bound * other_factor
        counts = self.counts.astype(np.int64)
        counts[: len(other.counts)] += other.counts
        if bound >= _INTEGER_MAX:
            return Totals(_NO_SUMS, counts, exponent, _INTEGER_MAX)
        sums = self.sums.copy() if factor == 1 else self.sums * factor
        sums[: len(other.sums)] += other.sums if other_factor == 1 else other.sums * other_factor
        return Totals(sums, counts, exponent, bound)

    def kept(self) -> Totals:
        """The same totals in smaller types."""
        return replace(self, counts=smallest(self.counts))


def _added(rows: Sequence[NumberRows], slots: int, exponent: int, unit: int) -> Int64s:
    """By slot the sums × 10^`exponent`, each number increased by the unit."""
    sums = np.zeros(slots, np.int64)
    for piece, numbers in rows:
        assert numbers.mantissas is not None
        scaled = numbers.mantissas.astype(np.int64)
        if numbers.exponent != exponent:
            scaled *= 10 ** (exponent - numbers.exponent)
        scaled += unit
        apply_at(np.add, sums, piece.row_slots, scaled)
    return sums


def _bound(numbers: NumberColumn, exponent: int) -> int:
    mantissas = numbers.mantissas
    if mantissas is None:
        return _INTEGER_MAX
    largest = max(abs(int(mantissas.min())), abs(int(mantissas.max())))
    return largest * len(numbers) * int(10 ** (exponent - numbers.exponent))


def sum_passing(totals: Totals, rows: Callable[[], Sequence[NumberRows]], intervals: Intervals) -> Bools:
    """Slots that have rows and a sum in the intervals. `rows` are the rows behind the totals."""
    if not totals.are_exact:
        return _decided(rows(), totals.counts, intervals, average=False)
    passed = np.zeros(len(totals.sums), np.bool_)
    for interval in intervals:
        passed |= integers_between(totals.sums, *integer_bounds(interval, totals.exponent))
    return passed & (totals.counts > 0)


def average_passing(totals: Totals, rows: Callable[[], Sequence[NumberRows]], intervals: Intervals) -> Bools:
    """Slots that have rows and an average in the intervals. `rows` are the rows behind the totals."""
    if not totals.are_exact:
        return _decided(rows(), totals.counts, intervals, average=True)
    passed = np.zeros(len(totals.sums), np.bool_)
    for interval in intervals:
        inside = _average_between(totals, interval)
        if inside is None:
            return _decided(rows(), totals.counts, intervals, average=True)
        passed |= inside
    return passed & (totals.counts > 0)


# --- integers -----------------------------------------------------------------------------------------------


def _average_between(totals: Totals, interval: Interval) -> Bools | None:
    """Averages in the interval, compared as integers; None when a product could overflow."""
    sums, counts = totals.sums, totals.counts.astype(np.int64, copy=False)
    passed = np.ones(len(sums), np.bool_)
    for limit, above, included in (
        (interval.low, True, interval.low_included),
        (interval.high, False, interval.high_included),
    ):
        if limit is None:
            continue
        # limit × 10^exponent as a fraction: numerator / 10^further.
        scaled_limit = shortest(limit).scaleb(totals.exponent)
        further = max(0, -int(scaled_limit.as_tuple().exponent))
        numerator = int(scaled_limit.scaleb(further))
        largest_total = max(1, int(np.abs(sums).max(initial=0))) * 10**further
        largest_limit = max(1, int(counts.max(initial=0))) * abs(numerator)
        if max(largest_total, largest_limit) >= _INTEGER_MAX:
            return None
        left, right = sums * 10**further, counts * numerator
        if above:
            passed &= left >= right if included else left > right
        else:
            passed &= left <= right if included else left < right
    return passed


# --- doubles first, decimals near a limit -------------------------------------------------------------------


class _Approximation:
    """Sums of doubles, and the largest distance of each to the exact sum."""

    def __init__(self, rows: Sequence[NumberRows], counts: Ints) -> None:
        self.rows = rows
        self.sums = np.zeros(len(counts))
        sizes = np.zeros(len(counts))
        with np.errstate(over="ignore", invalid="ignore"):
            for piece, numbers in self.rows:
                starts, slots = piece.starts[:-1], piece.slots
                self.sums[slots] += np.add.reduceat(numbers.doubles, starts)
                sizes[slots] += np.add.reduceat(np.abs(numbers.doubles), starts)
            self.errors: Floats = rounding_error(sizes, counts)

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


def _decided(rows: Sequence[NumberRows], counts: Ints, intervals: Intervals, *, average: bool) -> Bools:
    approximation = _Approximation(rows, counts)
    present = counts > 0
    divisors: Ints = np.where(present & average, counts, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        inside, outside = inside_or_outside(approximation.sums, approximation.errors, divisors, intervals)
    passed = inside & present
    for slot, total in approximation.exact(present & np.logical_not(inside | outside)):
        passed[slot] = sum_in(total, int(counts[slot]) if average else 1, intervals)
    return passed


@overload
def rounding_error(size: float, count: int) -> float: ...
@overload
def rounding_error(size: Floats, count: Ints) -> Floats: ...
def rounding_error(size: Any, count: Any) -> Any:
    """How far a sum of doubles can be from that of their shortest decimals, in any order of adding them:
    `size` is the sum of their absolute values.
    """
    return (count + 8) * (size * _ROUNDING + _TINY)


@overload
def inside_or_outside(
    sums: float, errors: float, divisors: int, intervals: Intervals
) -> tuple[bool, bool]: ...
@overload
def inside_or_outside(
    sums: Floats, errors: Floats, divisors: Ints, intervals: Intervals
) -> tuple[Bools, Bools]: ...
def inside_or_outside(sums: Any, errors: Any, divisors: Any, intervals: Intervals) -> Any:
    """Whether sums / divisors are clearly inside the intervals, and whether clearly outside: wherever within
    their errors they are.
    """
    numbers = sums / divisors
    errors = errors / divisors + abs(numbers) * _ROUNDING + _TINY
    low, high = numbers - errors, numbers + errors
    inside: Any = False
    outside: Any = True
    for interval in intervals:
        lower = -math.inf if interval.low is None else interval.low
        upper = math.inf if interval.high is None else interval.high
        inside = inside | (low > lower) & (high < upper)
        outside = outside & ((high < lower) | (low > upper))
    return inside, outside
