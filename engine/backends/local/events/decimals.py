"""Exact decimal arithmetic on doubles, each read as its shortest decimal form.

0.1 means one tenth, not the nearest double, so 0.1 + 0.2 equals 0.3. Columns of ordinary figures are integers
with one decimal exponent and add up as integers. All others use `decimal`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from decimal import Context, Decimal, Inexact, localcontext

import numpy as np

from engine.backends.local.storage.arrays import Floats, Int64s, Ints
from engine.criteria.ranges import Interval

MANTISSA_MAX = 10**15 - 1
"""Two decimals of up to 15 significant digits never share a double. So a decimal of that length that rounds
to a double is its shortest form.
"""
EXPONENT_MAX = 15

_SAMPLE_VALUES = 64
"""Values sampled to choose the exponent that is tried first."""

# Sums of doubles have digits from 10^309 (and a few more, for many of them) down to 10^-324.
_EXACT = Context(prec=700, Emax=10_000, Emin=-10_000, traps=[Inexact])


def scaled(values: Floats) -> tuple[Int64s, int] | None:
    """Integers m and the least exponent e with every value's shortest decimal equal to m × 10^-e and
    |m| <= MANTISSA_MAX; None when there is none.
    """
    exponent = 0
    if len(values) > _SAMPLE_VALUES:
        # An exponent that is too small for some of the values is too small for all.
        found = scaled(values[:_SAMPLE_VALUES])
        if found is None:
            return None
        exponent = found[1]
    left = values
    with np.errstate(over="ignore", invalid="ignore"):
        while True:
            power = 10.0**exponent
            mantissas = np.rint(left * power)
            if not _fits(mantissas):
                return None
            unsettled = mantissas / power != left
            if not unsettled.any():
                break
            left = left[unsettled]
            exponent += 1
            if exponent > EXPONENT_MAX:
                return None
        if len(left) < len(values):
            # Values that fit a smaller exponent must fit the greatest as well.
            mantissas = np.rint(values * power)
            if not _fits(mantissas) or (mantissas / power != values).any():
                return None
    return mantissas.astype(np.int64), exponent


def _fits(mantissas: Floats) -> bool:
    # Written so that NaN does not fit.
    return not len(mantissas) or bool(mantissas.max() <= MANTISSA_MAX and mantissas.min() >= -MANTISSA_MAX)


def rescaled(pieces: Sequence[tuple[Ints, int]]) -> tuple[Ints, int] | None:
    """Mantissas of several columns, concatenated under one exponent: what `scaled` returns for all their
    values. None when they do not fit one exponent.
    """
    found = powers_to_one_exponent(pieces)
    if found is None:
        return None
    powers, exponent = found
    same = len({own.dtype for own, _ in pieces}) == 1 and max(powers) == 1
    mantissas: Ints = np.concatenate(
        [
            own if same else own.astype(np.int64) * power
            for (own, _), power in zip(pieces, powers, strict=True)
        ]
    )
    while exponent and not _has_last_digit(mantissas):
        mantissas = mantissas // 10
        exponent -= 1
    return mantissas, exponent


def powers_to_one_exponent(pieces: Sequence[tuple[Ints, int]]) -> tuple[list[int], int] | None:
    """The power of ten by which to multiply the mantissas of each column, and the exponent that they then
    share. None when they would exceed MANTISSA_MAX.
    """
    exponent = max(exponent for _, exponent in pieces)
    powers = [10 ** (exponent - own) for _, own in pieces]
    if any(
        max(int(own.max()), -int(own.min())) * power > MANTISSA_MAX
        for (own, _), power in zip(pieces, powers, strict=True)
        if power > 1 and len(own)
    ):
        return None
    return powers, exponent


def _has_last_digit(mantissas: Ints) -> bool:
    """Whether any is not a multiple of ten. One of the first usually is not."""
    sample = mantissas[:_SAMPLE_VALUES]
    return bool((sample % 10).any() or (mantissas % 10).any())


def shortest(number: float) -> Decimal:
    """The shortest decimal that rounds to this double."""
    return Decimal(repr(number))


@functools.lru_cache(maxsize=4_096)
def integer_bounds(interval: Interval, exponent: int = 0) -> tuple[int | None, int | None]:
    """The least and the greatest integer m with m × 10^-exponent in the interval. None: unbounded."""
    low = high = None
    with localcontext(_EXACT):
        if interval.low is not None:
            bound = shortest(interval.low).scaleb(exponent)
            low = math.ceil(bound)
            low += not interval.low_included and low == bound
        if interval.high is not None:
            bound = shortest(interval.high).scaleb(exponent)
            high = math.floor(bound)
            high -= not interval.high_included and high == bound
    return low, high


def exact_sum(values: Iterable[float]) -> Decimal:
    """The sum of the shortest decimal forms."""
    with localcontext(_EXACT):
        return sum(map(shortest, values), Decimal(0))


def sum_in(total: Decimal, count: int, intervals: Iterable[Interval]) -> bool:
    """Whether total / count lies in one of the intervals."""
    with localcontext(_EXACT):
        return any(_holds(interval, total, count) for interval in intervals)


def _holds(interval: Interval, total: Decimal, count: int) -> bool:
    if interval.low is not None:
        bound = shortest(interval.low) * count
        if not (total > bound or (interval.low_included and total == bound)):
            return False
    if interval.high is not None:
        bound = shortest(interval.high) * count
        if not (total < bound or (interval.high_included and total == bound)):
            return False
    return True
