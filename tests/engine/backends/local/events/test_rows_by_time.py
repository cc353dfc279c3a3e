"""Rows in order of time: those in a range, whatever its ends and however they are sorted."""

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


@pytest.mark.parametrize("few_times_max", [0, 30])
@given(rows=ROWS, start=st.none() | INSTANTS, end=st.none() | INSTANTS)
def test_the_rows_in_a_range(
    few_times_max: int, rows: list[tuple[int, int]], start: int | None, end: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select, "FEW_TIMES_MAX", few_times_max)
        by_time = RowsByTime.of_rows(
            np.array([user for user, _ in rows], np.uint32), np.array([time for _, time in rows], np.int64)
        )
    found = Counter(by_time.users_between(start, end).tolist())
    assert found == Counter(
        user for user, time in rows if (start is None or time >= start) and (end is None or time < end)
    )
