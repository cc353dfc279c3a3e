"""Bitmaps built from masks and ids equal those built by pyroaring."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from engine.backends.local.storage.bitmaps import (
    CONTAINER_IDS,
    bitmap_of,
    bitmap_of_mask,
    ids_of,
    joined_stored,
)

stretches = st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 9_000)), max_size=4)


@given(stretches, st.integers(0, 200_000))
def test_mask_becomes_a_set_of_positions(drawn: list[tuple[int, int]], length: int) -> None:
    mask = np.zeros(length, np.bool_)
    for start, count in drawn:
        mask[start : start + count] = True
    ids = np.flatnonzero(mask)
    expected = BitMap(ids.tolist())
    assert bitmap_of_mask(mask) == expected
    assert bitmap_of(ids) == expected
    assert ids_of(expected).tolist() == ids.tolist()


@pytest.mark.parametrize("size", [4_095, 4_096, 4_097, 65_535, 65_536, 65_537])
def test_at_the_limits_of_containers(size: int) -> None:
    mask = np.zeros(3 * 65_536 + 5, np.bool_)
    mask[65_536 : 65_536 + size] = True
    mask[-1] = True
    built = bitmap_of_mask(mask)
    assert len(built) == size + 1
    assert built == BitMap(np.flatnonzero(mask).tolist())
    assert BitMap.deserialize(built.serialize()) == built


@given(st.lists(st.tuples(stretches, st.booleans()), max_size=4))
def test_serialised_sets_are_joined_one_after_the_other(
    drawn: list[tuple[list[tuple[int, int]], bool]],
) -> None:
    # Each has room for four containers, and is in the form with runs or in that without.
    sets = []
    for spans, has_runs in drawn:
        users = BitMap([], optimize=False)
        for start, count in spans:
            users.add_range(start, start + count)
        if has_runs:
            users.run_optimize()
        sets.append(users)
    expected = BitMap()
    for number, users in enumerate(sets):
        expected |= users.shift(number * 4 * CONTAINER_IDS)
    found = joined_stored((number * 4, users.serialize()) for number, users in enumerate(sets))
    assert found == expected
    assert BitMap.deserialize(found.serialize()) == expected
