"""Aggregates of one user's rows, row by row, decide like those of several users."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.backends.local.events.columns import NumberColumn
from engine.backends.local.events.decimals import exact_sum, sum_in
from engine.backends.local.events.model import ResolvedEventMatch, ResolvedSelection
from engine.backends.local.events.one_user import (
    ROWS_MAX,
    ROWS_SUMMED_MAX,
    RowsOfOne,
    aggregate_of_one_passes,
)
from engine.backends.local.storage.turns import TakesLong
from engine.criteria.model import Aggregate
from engine.criteria.ranges import ALL_NUMBERS, Interval

OF = 7
SELECTION = ResolvedSelection(inputs=(1,))
LONG = len("-49.123")
"""Characters of the numbers that are short decimals, at most."""


class OnePart:
    """A part with a column of numbers."""

    def __init__(self, column: NumberColumn | None) -> None:
        self._column = column

    def column_in_memory(self, attribute: int, kind: object) -> NumberColumn | None:
        assert attribute == OF
        return self._column


def _number(draw: random.Random) -> float:
    number = draw.uniform(-50, 50)
    return number if draw.random() < 0.02 else round(number, draw.choice((0, 1, 3)))


@pytest.mark.parametrize("seed", range(50))
def test_sum_is_that_of_shortest_decimals(seed: int) -> None:
    draw = random.Random(seed)
    rows: list[RowsOfOne] = []
    numbers: list[float] = []
    has_long = False
    for _ in range(draw.randint(0, 4)):
        count = draw.randint(1, 12)
        values = [_number(draw) for _ in range(count)]
        have = sorted(draw.sample(range(count), draw.randint(0, count)))
        first = draw.randrange(count)
        positions = range(first, draw.randint(first + 1, count))
        is_dense = draw.random() < 0.5
        kept = list(range(count)) if is_dense else have
        column = NumberColumn.of(
            None if is_dense else np.array(kept, np.int64), np.array([values[at] for at in kept])
        )
        rows.append((OnePart(column if kept else None), positions))  # type: ignore[arg-type]
        numbers += [values[at] for at in kept if at in positions]
        has_long |= any(len(repr(values[at])) > LONG for at in kept)
    total = float(exact_sum(numbers)) if numbers else 0.0
    bounds = [total / count + away for count in (1, max(1, len(numbers))) for away in (0, 0.5, -0.001)]
    for bound in (*bounds, 0.0):
        for interval in (Interval(low=bound), Interval(high=bound), Interval(low=bound, low_included=False)):
            for aggregate, count in ((Aggregate.SUM, 1), (Aggregate.AVERAGE, len(numbers))):
                expected = bool(numbers) and sum_in(exact_sum(numbers), count, (interval,))
                step = ResolvedEventMatch(
                    selection=SELECTION, aggregate=aggregate, of=OF, intervals=(interval,)
                )
                try:
                    found = aggregate_of_one_passes(rows, step)
                except TakesLong:
                    # Doubles near a limit are for `decimal`.
                    assert has_long
                    assert abs(total / count - bound) < 1e-6
                else:
                    assert found is expected, f"{aggregate}: {numbers} {interval}"


def test_users_of_many_rows_go_the_way_of_many_users() -> None:
    column = NumberColumn.of(None, np.ones(ROWS_MAX + 1))
    step = ResolvedEventMatch(selection=SELECTION, aggregate=Aggregate.MIN, of=OF, intervals=(ALL_NUMBERS,))
    part = OnePart(column)
    assert aggregate_of_one_passes([(part, range(ROWS_MAX))], step)  # type: ignore[list-item]
    with pytest.raises(TakesLong):
        aggregate_of_one_passes([(part, range(ROWS_MAX + 1))], step)  # type: ignore[list-item]


@pytest.mark.parametrize("numbers", [[0.1] * (ROWS_SUMMED_MAX + 1), [1 / 3] * (ROWS_SUMMED_MAX + 1)])
@pytest.mark.parametrize("aggregate", [Aggregate.SUM, Aggregate.AVERAGE])
def test_more_rows_are_only_added_up(numbers: list[float], aggregate: Aggregate) -> None:
    part = OnePart(NumberColumn.of(None, np.array(numbers)))
    count = ROWS_SUMMED_MAX if aggregate is Aggregate.SUM else 1
    for low, expected in ((numbers[0] * count * 0.99, True), (numbers[0] * count * 1.01, False)):
        step = ResolvedEventMatch(
            selection=SELECTION, aggregate=aggregate, of=OF, intervals=(Interval(low=low),)
        )
        assert aggregate_of_one_passes([(part, range(ROWS_SUMMED_MAX))], step) is expected  # type: ignore[list-item]
        with pytest.raises(TakesLong):
            aggregate_of_one_passes([(part, range(ROWS_SUMMED_MAX + 1))], step)  # type: ignore[list-item]


def test_sums_beyond_the_largest_double_go_the_way_of_many_users() -> None:
    part = OnePart(NumberColumn.of(None, np.array([1.7e308, 1.7e308, -1.7e308])))
    step = ResolvedEventMatch(
        selection=SELECTION, aggregate=Aggregate.SUM, of=OF, intervals=(Interval(low=0.0),)
    )
    with pytest.raises(TakesLong):
        aggregate_of_one_passes([(part, range(3))], step)  # type: ignore[list-item]


def test_what_is_not_in_memory_is_not_read() -> None:
    class NotInMemory(OnePart):
        def column_in_memory(self, attribute: int, kind: object) -> NumberColumn | None:
            raise TakesLong

    step = ResolvedEventMatch(selection=SELECTION, aggregate=Aggregate.MIN, of=OF, intervals=(ALL_NUMBERS,))
    with pytest.raises(TakesLong):
        aggregate_of_one_passes([(NotInMemory(None), range(1))], step)  # type: ignore[list-item]
