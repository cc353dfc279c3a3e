"""Columns come back from their stored form, join, and test values as the matcher does one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.criteria.matching import compile_test
from engine.criteria.resolved import ResolvedTest
from engine.local.events.columns import (
    Column,
    DictionaryColumn,
    NumberColumn,
    at_rows,
    column_of,
    joined,
    unpack_column,
)
from engine.values import Kind, Value, kind_of
from tests.engine.local.events import drawing


def values_of(column: Column) -> list[Any]:
    if isinstance(column, NumberColumn):
        return list(column.doubles.tolist())
    if isinstance(column, DictionaryColumn):
        return [column.entries.values[code] for code in column.codes.tolist()]
    return list(column.times.tolist())


def same_kind(values: list[Value]) -> list[Value]:
    return [value for value in values if kind_of(value) is kind_of(values[0])]


columns = st.lists(drawing.values, min_size=1, max_size=12).map(same_kind)
many_numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1)


@given(columns | many_numbers, st.booleans())
def test_a_column_comes_back(values: list[Any], sparse: bool) -> None:
    positions = np.arange(len(values), dtype=np.int64) * 3 + 1 if sparse else None
    column = column_of(kind_of(values[0]), positions, values)
    packed = column.pack()
    again = unpack_column(memoryview(packed))
    assert type(again) is type(column)
    assert values_of(again) == values
    assert (again.positions is None) == (positions is None)
    if again.positions is not None and positions is not None:
        assert again.positions.tolist() == positions.tolist()
    assert again.pack() == packed


@given(columns, drawing.tests)
def test_a_test_passes_on_the_column_as_on_each_value(values: list[Any], test: ResolvedTest) -> None:
    matcher = compile_test(test)
    kind = kind_of(values[0])
    expected = [kind in matcher.kinds and matcher.passes(value) for value in values]
    column = column_of(kind, None, values)
    if kind in matcher.kinds:
        assert column.passing(matcher).tolist() == expected
        assert column.passing(matcher).tolist() == expected
        for place in range(len(values)):
            _, one = at_rows(column, np.array([place]))
            assert one.passing(matcher).tolist() == [expected[place]]
    else:
        assert not any(expected)


@given(columns, columns, st.randoms())
def test_joined_columns_keep_every_value_at_its_row(first: list[Any], second: list[Any], random: Any) -> None:
    second = [value for value in second if kind_of(value) is kind_of(first[0])]
    rows = random.sample(range(100), len(first) + len(second))
    pieces = []
    for values, places in ((first, rows[: len(first)]), (second, rows[len(first) :])):
        if values:
            ordered = sorted(zip(places, values, strict=True), key=lambda pair: pair[0])
            column = column_of(kind_of(first[0]), None, [value for _, value in ordered])
            pieces.append((np.array([place for place, _ in ordered]), column))
    whole = joined(pieces)
    assert whole.positions is not None
    expected = dict(zip(rows, [*first, *second], strict=True))
    assert dict(zip(whole.positions.tolist(), values_of(whole), strict=True)) == expected


def test_ordinary_prices_are_integers_and_long_doubles_stay_what_they_are() -> None:
    prices = column_of(Kind.NUMBER, None, [1.25, 300.0, 19.99] * 100)
    assert isinstance(prices, NumberColumn)
    assert prices.mantissas is not None
    assert (prices.mantissas.dtype, prices.exponent) == (np.dtype("u2"), 2)
    long = column_of(Kind.NUMBER, None, [0.1 + 0.2, -0.0, 5e-324] * 100)
    again = unpack_column(memoryview(long.pack()))
    assert isinstance(again, NumberColumn)
    assert again.mantissas is None
    assert again.doubles.tobytes() == np.array([0.1 + 0.2, -0.0, 5e-324] * 100).tobytes()


@pytest.mark.parametrize("kept", [[0], [2, 3], [0, 1, 2, 3]])
def test_entries_without_rows_are_dropped(kept: list[int]) -> None:
    values = ["a", "b", "a", "c"]
    column = DictionaryColumn.of(None, Kind.STRING, values).at(np.array(kept)).trimmed()
    assert values_of(column) == [values[place] for place in kept]
    assert sorted(map(str, column.entries.values)) == sorted({values[place] for place in kept})
