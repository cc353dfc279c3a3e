"""Aggregates of one user's rows, row by row, decide like those of several users."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.backends.local.events.columns import NumberColumn
from engine.backends.local.events.decimals import exact_sum, sum_in
from engine.backends.local.events.model import ResolvedEventMatch, ResolvedSelection
from engine.backends.local.events.one_user import ROWS_MAX, RowsOfOne, aggregate_of_one_passes
from engine.backends.local.storage.turns import TakesLong
from engine.criteria.model import Aggregate
from engine.criteria.ranges import ALL_NUMBERS, Interval

OF = 7
SELECTION = ResolvedSelection(inputs=(1,))


class OnePart:
    """A part with a column of numbers."""

    def __init__(self, column: NumberColumn | None) -> None:
        self._column = column

    def column_in_memory(self, attribute: int, kind: object) -> NumberColumn | None:
        assert attribute == OF
        return self._column


@pytest.mark.parametrize("seed", range(50))
def test_sum_is_that_of_shortest_decimals(seed: int) -> None:
    draw = random.Random(seed)
    rows: list[RowsOfOne] = []
    numbers: list[float] = []
    for _ in range(draw.randint(0, 4)):
        count = draw.randint(1, 12)
        values = [round(draw.uniform(-50, 50), draw.choice((0, 1, 3))) for _ in range(count)]
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
    total = float(exact_sum(numbers)) if numbers else 0.0
    for bound in (total, total + 0.5, total - 0.001, 0.0):
        for interval in (Interval(low=bound), Interval(high=bound), Interval(low=bound, low_included=False)):
            for aggregate, count in ((Aggregate.SUM, 1), (Aggregate.AVERAGE, len(numbers))):
                expected = bool(numbers) and sum_in(exact_sum(numbers), count, (interval,))
                step = ResolvedEventMatch(
                    selection=SELECTION, aggregate=aggregate, of=OF, intervals=(interval,)
                )
                assert aggregate_of_one_passes(rows, step) is expected, f"{aggregate}: {numbers} {interval}"


def test_users_of_many_rows_go_the_way_of_many_users() -> None:
    column = NumberColumn.of(None, np.ones(ROWS_MAX + 1))
    step = ResolvedEventMatch(selection=SELECTION, aggregate=Aggregate.MIN, of=OF, intervals=(ALL_NUMBERS,))
    part = OnePart(column)
    assert aggregate_of_one_passes([(part, range(ROWS_MAX))], step)  # type: ignore[list-item]
    with pytest.raises(TakesLong):
        aggregate_of_one_passes([(part, range(ROWS_MAX + 1))], step)  # type: ignore[list-item]


def test_what_is_not_in_memory_is_not_read() -> None:
    class NotInMemory(OnePart):
        def column_in_memory(self, attribute: int, kind: object) -> NumberColumn | None:
            raise TakesLong

    step = ResolvedEventMatch(selection=SELECTION, aggregate=Aggregate.MIN, of=OF, intervals=(ALL_NUMBERS,))
    with pytest.raises(TakesLong):
        aggregate_of_one_passes([(NotInMemory(None), range(1))], step)  # type: ignore[list-item]
