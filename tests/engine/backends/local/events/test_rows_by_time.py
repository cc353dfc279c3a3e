"""Rows by stretches of time: those in a range, whatever its ends and the length of a stretch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events import select
from engine.backends.local.events.select import RowsByTime

INSTANTS = st.integers(-40, 40) | st.integers(-(1 << 50), 1 << 50)
ROWS = st.lists(st.tuples(st.integers(0, 3), INSTANTS), max_size=30)


@pytest.mark.parametrize("stretches_bits", [0, 2, 12])
@given(rows=ROWS, start=st.none() | INSTANTS, end=st.none() | INSTANTS)
def test_the_rows_in_a_range(
    stretches_bits: int, rows: list[tuple[int, int]], start: int | None, end: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "STRETCHES_BITS", stretches_bits)
        by_time = RowsByTime.of_rows(
            np.array([user for user, _ in rows], np.uint32), np.array([time for _, time in rows], np.int64)
        )
    found = Counter(user for piece in by_time.users_between(start, end) for user in piece.tolist())
    assert found == Counter(
        user for user, time in rows if (start is None or time >= start) and (end is None or time < end)
    )
