"""Packed integers and the operations on sorted rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.storage.arrays import (
    TIME_UNITS,
    find_sorted,
    pack_integers,
    packed_size,
    ranges,
    runs,
    smallest,
    sort_order,
    sorted_distinct,
    unpack_integers,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
NARROW = st.integers(-300, 300)
INSTANTS = st.integers(-62_135_596_800, 253_402_300_799).map(lambda second: second * 1_000_000)


@given(st.lists(INT64) | st.lists(NARROW))
def test_integers_round_trip(values: list[int]) -> None:
    packed = pack_integers(np.array(values, np.int64))
    assert unpack_integers(memoryview(packed)).tolist() == values
    assert packed_size(memoryview(packed)) == len(packed)


@given(st.lists(INSTANTS) | st.lists(st.integers(0, 10**15)))
def test_rebased_times_round_trip(values: list[int]) -> None:
    packed = pack_integers(np.array(values, np.int64), rebase=True, units=TIME_UNITS)
    assert unpack_integers(memoryview(packed)).tolist() == values


def test_times_in_whole_seconds_take_little_more_than_their_digits() -> None:
    random = np.random.default_rng(5)
    times = 1_700_000_000_000_000 + random.integers(0, 90 * 86_400, 10_000) * 1_000_000
    # 7,776,000 different seconds are 22.9 bits; 7.776e12 microseconds are 42.8, of which none is left out.
    assert 2.86 < len(pack_integers(times, rebase=True, units=TIME_UNITS)) / len(times) < 3.1
    odd = times.copy()
    odd[3] += 1
    assert 4.5 < len(pack_integers(odd, rebase=True, units=TIME_UNITS)) / len(times) < 6


def test_sorted_integers_are_stored_by_planes_of_bytes() -> None:
    users = np.arange(0, 1_000_000, 13)
    packed = pack_integers(users)
    assert len(packed) < 1.1 * len(users)
    assert unpack_integers(memoryview(packed)).tolist() == users.tolist()


def test_equal_integers_take_no_space() -> None:
    packed = pack_integers(np.full(100_000, 70_000, np.int64))
    assert len(packed) < 100
    assert unpack_integers(memoryview(packed)).tolist() == [70_000] * 100_000


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], "u1"),
        ([0, 256], "u2"),
        ([-1, 127], "i1"),
        ([-1, 128], "i2"),
        ([-129], "i2"),
        ([2**32], "u8"),
    ],
)
def test_smallest_type_that_fits(values: list[int], dtype: str) -> None:
    found = smallest(np.array(values, np.int64))
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == values


@given(st.lists(NARROW))
def test_runs_and_distinct_values(values: list[int]) -> None:
    ordered = sorted(values)
    found = runs(np.array(ordered, np.int64)).tolist()
    assert found[-1] == len(ordered)
    assert [ordered[start] for start in found[:-1]] == sorted(set(values))
    assert sorted_distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4))))
def test_ranges_are_concatenated(pairs: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in pairs], np.int64)
    lengths = np.array([length for _, length in pairs], np.int64)
    expected = [position for start, length in pairs for position in range(start, start + length)]
    assert ranges(starts, lengths).tolist() == expected


@given(st.sets(NARROW), st.lists(NARROW))
def test_positions_of_found_needles(haystack: set[int], needles: list[int]) -> None:
    ordered = sorted(haystack)
    found, positions = find_sorted(np.array(ordered, np.int64), np.array(needles, np.int64))
    assert found.tolist() == [position for position, needle in enumerate(needles) if needle in haystack]
    assert [ordered[position] for position in positions] == [
        needle for needle in needles if needle in haystack
    ]


@given(
    st.lists(st.tuples(st.integers(0, 2**31 - 1) | NARROW, INSTANTS, NARROW), max_size=40).flatmap(
        lambda rows: st.permutations(rows * 2)
    ),
    st.integers(1, 3),
)
def test_rows_sort_by_all_their_keys_and_stay_in_order_where_those_are_equal(
    rows: list[tuple[int, int, int]], keys: int
) -> None:
    # Users and instants of all years do not fit 63 bits together.
    columns = np.array([row[:keys] for row in rows], np.int64).reshape(-1, keys).T
    assert sort_order(*columns).tolist() == sorted(
        range(len(rows)), key=lambda position: rows[position][:keys]
    )
