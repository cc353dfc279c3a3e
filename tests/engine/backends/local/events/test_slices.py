"""Slices cover every day once, and split where the rows are."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events.slices import ROOT_LEVEL, SliceKey, rows_by_child, rows_by_slice
from engine.values import MICROS_PER_DAY

DAYS = st.integers(-800_000, 3_000_000)


def days_of(slice_key: SliceKey) -> range:
    return range(slice_key.first_day, slice_key.end_day)


@given(DAYS, st.lists(st.integers(0, 1_023), min_size=1), st.lists(st.integers(-2_000, 3_000), min_size=1))
def test_every_row_belongs_to_one_slice(root: int, splits: list[int], offsets: list[int]) -> None:
    slices = {SliceKey(ROOT_LEVEL, root >> ROOT_LEVEL)}
    first_day = min(slices).first_day
    # Split the slice of each of some days; halves without rows do not exist, so drop every other one.
    for number, split in enumerate(splits):
        found = next((one for one in slices if first_day + split in days_of(one) and one.level), None)
        if found is not None:
            slices.remove(found)
            slices.add(found.child_of(found.first_day))
            if number % 2:
                slices.add(found.child_of(found.end_day - 1))
    days = [root + offset for offset in offsets]
    times = np.array([day * MICROS_PER_DAY + number for number, day in enumerate(days)])
    placed: dict[int, SliceKey] = {}
    for slice_key, rows in rows_by_slice(times, slices):
        for row in range(len(times)) if rows is None else rows.tolist():
            assert row not in placed
            placed[row] = slice_key
    assert sorted(placed) == list(range(len(times)))
    assert all(days[row] in days_of(slice_key) for row, slice_key in placed.items())
    every = sorted(slices | set(placed.values()), key=lambda one: one.first_day)
    assert all(one.end_day <= after.first_day for one, after in itertools.pairwise(every))


def test_a_new_table_starts_with_a_root() -> None:
    times = np.array([20_480, 20_481, 21_503]) * MICROS_PER_DAY
    assert [(found, rows) for found, rows in rows_by_slice(times, ())] == [(SliceKey(10, 20), None)]


def test_days_before_1970_have_slices() -> None:
    times = np.array([-1, 0])
    found = [(slice_key, rows) for slice_key, rows in rows_by_slice(times, ())]
    assert [slice_key for slice_key, _ in found] == [SliceKey(10, -1), SliceKey(10, 0)]


@given(st.lists(st.integers(0, 1_023), min_size=1, max_size=60), st.integers(1, 20), st.integers(0, 2))
def test_children_are_as_large_as_the_rows_allow(days: list[int], rows_max: int, root: int) -> None:
    parent = SliceKey(ROOT_LEVEL, root - 1)
    times = np.array([(parent.first_day + day) * MICROS_PER_DAY + number for number, day in enumerate(days)])
    children = {child: rows.tolist() for child, rows in rows_by_child(times, parent, rows_max)}
    assert sorted(row for rows in children.values() for row in rows) == list(range(len(days)))
    for child, rows in children.items():
        assert rows == sorted(rows)
        assert all(parent.first_day + days[row] in days_of(child) for row in rows)
    (level,) = {child.level for child in children}

    def largest(level: int) -> int:
        return max(Counter(day >> level for day in days).values())

    assert level == 0 or largest(level) <= rows_max
    assert level == ROOT_LEVEL - 1 or largest(level + 1) > rows_max


def test_children_meet_at_midnight() -> None:
    middle = (20_480 + 512) * MICROS_PER_DAY
    children = rows_by_child(np.array([middle - 1, middle]), SliceKey(10, 20), 1)
    assert {child: rows.tolist() for child, rows in children} == {
        SliceKey(9, 40): [0],
        SliceKey(9, 41): [1],
    }
    only = [child for child, _ in rows_by_child(np.array([middle]), SliceKey(10, 20), 1)]
    assert only == [SliceKey(9, 41)]


def test_days_far_apart() -> None:
    days = [-800_000, 3_000_000, -800_000, 0]
    found = rows_by_slice(np.array(days) * MICROS_PER_DAY, ())
    assert {key.number: rows if rows is None else rows.tolist() for key, rows in found} == {
        -800_000 >> ROOT_LEVEL: [0, 2],
        3_000_000 >> ROOT_LEVEL: [1],
        0: [3],
    }
