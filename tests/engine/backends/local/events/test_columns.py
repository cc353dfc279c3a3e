"""Columns round-trip, join, and test values like the matcher."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events.columns import (
    Column,
    DictionaryColumn,
    NumberColumn,
    at_rows,
    column_of,
    joined,
    unpack_column,
)
from engine.criteria.operators import ResolvedTest, matcher_of
from engine.values import Kind, Value, kind_of
from tests.engine.backends.local.events import drawing


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
def test_column_round_trips(values: list[Any], sparse: bool) -> None:
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
def test_column_test_equals_single_value_tests(values: list[Any], test: ResolvedTest) -> None:
    matcher = matcher_of(test)
    kind = kind_of(values[0])
    expected = [kind in matcher.kinds and matcher.passes(value) for value in values]
    column = column_of(kind, None, values)
    if kind in matcher.kinds:
        assert column.passing(matcher, lambda: None).tolist() == expected
        assert column.passing(matcher, lambda: None).tolist() == expected
        for index in range(len(values)):
            _, one = at_rows(column, np.array([index]))
            assert one.passing(matcher, lambda: None).tolist() == [expected[index]]
    else:
        assert not any(expected)


@given(columns, columns, st.booleans(), st.randoms())
def test_joined_columns_keep_every_value_at_its_row(
    first: list[Any], second: list[Any], sparse: bool, random: Any
) -> None:
    second = [value for value in second if kind_of(value) is kind_of(first[0])]
    pieces, held, rows = [], dict[int, Any](), 0
    for values in filter(None, (first, second)):
        count = len(values) + (random.randrange(1, 5) if sparse else 0)
        filled = sorted(random.sample(range(count), len(values)))
        positions = np.array(filled) if sparse else None
        pieces.append((rows, count, column_of(kind_of(first[0]), positions, values)))
        held.update((rows + index, value) for index, value in zip(filled, values, strict=True))
        rows += count
    order = random.sample(range(rows), rows)

    whole = joined(pieces, np.array(order))
    assert (whole.positions is None) == (not sparse)
    at = range(rows) if whole.positions is None else whole.positions.tolist()
    assert {order[row]: value for row, value in zip(at, values_of(whole), strict=True)} == held


decimals = st.builds(
    lambda mantissa, exponent: float(f"{mantissa}e-{exponent}"),
    st.integers(-(10**15), 10**15) | st.integers(-99, 99).map(lambda number: number * 100),
    st.integers(0, 15),
)
numbers = st.lists(decimals | st.integers(-300, 300).map(float), min_size=1)


@given(st.lists(numbers, min_size=1, max_size=3), st.randoms())
def test_numbers_joined_as_integers_have_the_form_that_their_doubles_would_get(
    pieces: list[list[float]], random: Any
) -> None:
    # Columns of which rows were taken away may have a greater exponent than they need.
    taken, rows = [], 0
    for values in pieces:
        kept = np.array(sorted(random.sample(range(len(values)), random.randrange(1, len(values) + 1))))
        taken.append((rows, len(kept), column_of(Kind.NUMBER, None, values).at(kept)))
        rows += len(kept)
    order = np.array(random.sample(range(rows), rows))
    whole = joined(taken, order)
    expected = NumberColumn.of(None, np.concatenate([values_of(column) for _, _, column in taken])[order])
    assert whole.pack() == expected.pack()


def test_dictionaries_that_pieces_share_are_joined_once() -> None:
    shared = DictionaryColumn.of(None, Kind.STRING, ["a", "b", "c", "a"])
    other = DictionaryColumn.of(None, Kind.STRING, ["c", "d"])
    whole = joined(
        [(0, 2, shared.at(slice(0, 2))), (2, 2, other), (4, 2, shared.at(slice(2, 4)))], np.arange(6)
    )
    assert isinstance(whole, DictionaryColumn)
    assert values_of(whole) == ["a", "b", "c", "d", "c", "a"]
    assert whole.entries.values == ["a", "b", "c", "d"]
    assert whole.codes.dtype == np.dtype("u1")


def test_prices_become_integers_and_long_doubles_stay_doubles() -> None:
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
    assert values_of(column) == [values[index] for index in kept]
    assert sorted(map(str, column.entries.values)) == sorted({values[index] for index in kept})
