"""Rows joined over all groups: the rows in a range, whatever its ends, and counts of them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events import all_rows
from engine.backends.local.events.all_rows import AllRows, GroupRows, RowsByDay
from engine.criteria.ranges import Interval, TimeRange
from engine.values import MICROS_PER_DAY

STRIDE = 4_096
GROUPS = 3
INSTANTS = st.integers(-3, 3).map(lambda day: day * MICROS_PER_DAY) | st.integers(
    -3 * MICROS_PER_DAY, 3 * MICROS_PER_DAY
)
ROWS = st.lists(st.tuples(st.integers(0, GROUPS - 1), st.integers(0, 3), INSTANTS), max_size=30)
Rows = list[tuple[int, int, int]]


def by_group(rows: Rows) -> list[list[tuple[np.ndarray, np.ndarray, int]]]:
    """The rows of each group as two parts, each with the most rows of a user."""
    found = []
    for group in range(GROUPS):
        here = [(user, time) for each, user, time in rows if each == group]
        pieces = [here[::2], here[1::2]]
        found.append(
            [
                (
                    np.array([u for u, _ in piece], np.uint32),
                    np.array([t for _, t in piece], np.int64),
                    max(Counter(u for u, _ in piece).values()),
                )
                for piece in pieces
                if piece
            ]
        )
    return found


def within(rows: Rows, start: int | None, end: int | None) -> Counter[int]:
    return Counter(
        group * STRIDE + user
        for group, user, time in rows
        if (start is None or time >= start) and (end is None or time < end)
    )


@pytest.mark.parametrize("days_sorted_fast_max", [0, 1 << 16])
@given(rows=ROWS, start=st.none() | INSTANTS, end=st.none() | INSTANTS)
def test_the_rows_in_a_range(
    days_sorted_fast_max: int, rows: Rows, start: int | None, end: int | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_rows, "DAYS_SORTED_FAST_MAX", days_sorted_fast_max)
        by_day = RowsByDay.of_groups(list(enumerate(by_group(rows))), STRIDE)
    found = Counter(int(user) for piece in by_day.users_between(start, end) for user in piece)
    assert found == within(rows, start, end)


@pytest.mark.parametrize("sparse_share", [0, 1 << 40])
@given(stored=ROWS, fresh=ROWS, start=st.none() | INSTANTS, low=st.integers(0, 3), high=st.integers(1, 4))
def test_users_by_their_number_of_rows(
    sparse_share: int, stored: Rows, fresh: Rows, start: int | None, low: int, high: int
) -> None:
    states: tuple[object, ...] = ("state",)
    groups = [
        GroupRows(group, states, old, new)
        for group, (old, new) in enumerate(zip(by_group(stored), by_group(fresh), strict=True))
    ]
    both = AllRows.of_groups(None, groups, STRIDE)
    left_out = [GroupRows(each.group, states, None, each.fresh) for each in groups]
    later = AllRows.of_groups(None, [GroupRows(g.group, states, g.stored, []) for g in groups], STRIDE)
    counts = within(stored + fresh, start, None)
    for interval in (Interval(low=low, high=high), Interval(low=low)):
        expected = {
            user
            for user, count in counts.items()
            if low <= count and (interval.high is None or count <= interval.high)
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(all_rows, "SPARSE_SHARE", sparse_share)
            for rows in (both, later.with_fresh(left_out, STRIDE)):
                found = rows.passing(TimeRange(start=start), (interval,))
                assert set(found) == expected


@given(
    stored=ROWS,
    fresh=ROWS,
    windows=st.lists(st.tuples(st.none() | INSTANTS, st.none() | INSTANTS), min_size=2, max_size=6),
    low=st.integers(1, 3),
)
def test_counts_of_days_are_kept_from_window_to_window(
    stored: Rows, fresh: Rows, windows: list[tuple[int | None, int | None]], low: int
) -> None:
    groups = [
        GroupRows(group, (), old, new)
        for group, (old, new) in enumerate(zip(by_group(stored), by_group(fresh), strict=True))
    ]
    rows = AllRows.of_groups(None, groups, STRIDE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_rows, "SPARSE_SHARE", 1 << 40)
        for start, end in windows:
            counts = within(stored + fresh, start, end)
            expected = {user for user, count in counts.items() if count >= low}
            assert set(rows.passing(TimeRange(start=start, end=end), (Interval(low=low),))) == expected


@pytest.mark.parametrize("rows_of_user", [1, 255, 256, 300])
def test_a_user_with_more_rows_than_a_byte_counts(rows_of_user: int) -> None:
    """Half of them are stored, in a day that is counted as a whole; one more is at the edge of the window."""
    half = rows_of_user // 2
    stored = [(1, 2, 5)] * half + [(1, 2, MICROS_PER_DAY)]
    fresh = [(1, 2, 7)] * (rows_of_user - half)
    groups = [
        GroupRows(group, (), old, new)
        for group, (old, new) in enumerate(zip(by_group(stored), by_group(fresh), strict=True))
    ]
    rows = AllRows.of_groups(None, groups, STRIDE)
    time = TimeRange(start=0, end=MICROS_PER_DAY + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_rows, "SPARSE_SHARE", 1 << 40)
        for most, expected in ((rows_of_user, set()), (rows_of_user + 1, {STRIDE + 2})):
            assert set(rows.passing(time, (Interval(low=most, high=most),))) == expected
        assert rows.nbytes > rows.stored.nbytes + rows.fresh.nbytes + STRIDE * GROUPS
