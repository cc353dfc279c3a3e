"""Doubles as shortest decimals."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events.decimals import MANTISSA_MAX, exact_sum, integer_bounds, scaled, sum_in
from engine.criteria.ranges import Interval
from tests.engine.backends.local.events import brute, drawing

finite = st.floats(allow_nan=False, allow_infinity=False)
prices = st.builds(
    lambda mantissa, exponent: float(f"{mantissa}e-{exponent}"),
    st.integers(-(10**15), 10**15),
    st.integers(0, 6),
)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ([], 0)),
        ([3.0, -2.0, 0.0], ([3, -2, 0], 0)),
        ([0.1, 0.25], ([10, 25], 2)),
        ([-0.0], ([0], 0)),
        ([999999999999999.0], ([999999999999999], 0)),
        ([0.123456789012345], ([123456789012345], 15)),
        ([1e15], None),
        ([1e308], None),
        ([5e-324], None),
        ([0.1 + 0.2], None),
        ([0.001, 999999999999.0], ([1, 999999999999000], 3)),
        ([0.0001, 999999999999.0], None),
    ],
)
def test_scaled_columns(values: list[float], expected: tuple[list[int], int] | None) -> None:
    found = scaled(np.array(values))
    assert (found and (found[0].tolist(), found[1])) == expected


@given(st.lists(prices | drawing.numbers | finite, max_size=5))
def test_scaled_integers_are_the_shortest_decimals(values: list[float]) -> None:
    found = scaled(np.array(values, np.float64))
    if found is not None:
        mantissas, exponent = found
        assert [Fraction(m, 10**exponent) for m in mantissas.tolist()] == [brute.shortest(v) for v in values]
        assert (mantissas.astype(np.float64) / 10.0**exponent).tolist() == values


@given(st.lists(prices | finite, min_size=1, max_size=4), st.integers(0, 300))
def test_scaling_does_not_depend_on_the_order_of_values(values: list[float], ones: int) -> None:
    alone = scaled(np.array([1.0, *values]))
    for column in ([*values, *[1.0] * ones], [*[1.0] * ones, *values]):
        found = scaled(np.array([1.0, *column]))
        assert (found is None) == (alone is None)
        if found is not None and alone is not None:
            assert found[1] == alone[1]
            assert set(found[0].tolist()) == {*alone[0].tolist()}


@given(prices)
def test_prices_are_scaled(price: float) -> None:
    decimal = Decimal(repr(price))
    mantissa = abs(decimal.scaleb(max(0, -int(decimal.normalize().as_tuple().exponent))))
    assert (scaled(np.array([price])) is not None) == (mantissa <= MANTISSA_MAX)


@given(finite, st.booleans(), st.integers(0, 15), st.integers(-50, 50))
def test_integer_bounds_divide_the_integers_as_the_interval_does(
    bound: float, included: bool, exponent: int, beside: int
) -> None:
    near = math.floor(brute.shortest(bound) * 10**exponent) + beside
    number = Fraction(near, 10**exponent)
    for interval in (Interval(bound, included, None, True), Interval(None, True, bound, included)):
        low, high = integer_bounds(interval, exponent)
        inside = (low is None or low <= near) and (high is None or near <= high)
        assert inside == brute.in_intervals(number, [interval])


@given(st.lists(finite, max_size=6), finite, st.booleans())
def test_sums_and_averages_are_exact(values: list[float], bound: float, included: bool) -> None:
    total = sum(map(brute.shortest, values), Fraction())
    assert Fraction(exact_sum(values)) == total
    interval = Interval(bound, included, None, True)
    for count in (1, 3, len(values) or 1):
        assert sum_in(exact_sum(values), count, [interval]) == brute.in_intervals(total / count, [interval])


def test_a_tenth_and_two_tenths_are_three_tenths() -> None:
    assert exact_sum([0.1, 0.2]) == Decimal("0.3")
    assert exact_sum([1e308, 1e308, 5e-324, -1e308, -1e308]) == Decimal("5e-324")
