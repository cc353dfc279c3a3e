"""Counts over all groups: what is kept between questions, in windows that cut what is stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from engine.backends.local.events import (
    EventRow,
    EventTables,
    ResolvedEventMatch,
    ResolvedSelection,
    RowCondition,
    by_value,
    joined_rows,
)
from engine.backends.local.events import tables as tables_module
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Unshared
from engine.criteria.conditions import WhereAll, WhereAttribute, WhereNot
from engine.criteria.model import Equals, EventType
from engine.criteria.operators import NumberRange
from engine.criteria.ranges import Interval, TimeRange
from engine.values import MICROS_PER_DAY
from tests.engine.backends.local.events import brute, drawing
from tests.engine.backends.local.events.checkpoints import checkpoint
from tests.engine.backends.local.events.conftest import GROUPS

STRIDE = 64
ANY = (Interval(1.0, True, None, False),)
TWICE = (Interval(2.0, True, 2.0, True),)
IS_A: RowCondition = WhereAttribute(key=1, test=Equals("a"))
IS_LARGE: RowCondition = WhereAttribute(key=2, test=NumberRange((Interval(5.0, True, None, False),)))
CONDITIONS: tuple[RowCondition | None, ...] = (
    None,
    IS_A,
    WhereAttribute(key=1, test=Equals("never")),
    IS_LARGE,
    WhereNot(condition=IS_A),
    WhereAll(conditions=(IS_A, IS_LARGE)),
)

rows = st.builds(
    lambda group, user, time, attributes: EventRow(group, user, 1, 1, EventType.CUSTOM, time, 0, attributes),
    st.integers(0, GROUPS - 1),
    st.integers(0, 3),
    drawing.near_times,
    st.fixed_dictionaries(
        {}, optional={1: st.sampled_from(["a", "b", True]), 2: st.sampled_from([1.0, 5.0, 9.0])}
    ),
)
near_windows = st.builds(TimeRange, st.none() | drawing.near_times, st.none() | drawing.near_times)


def asked(time: TimeRange) -> list[ResolvedEventMatch]:
    return [
        ResolvedEventMatch(
            selection=ResolvedSelection(inputs=(1,), name=1, time=time, where=where), intervals=intervals
        )
        for where in CONDITIONS
        for intervals in (ANY, TWICE)
    ]


def check_step(tables: EventTables, expected: list[EventRow], step: ResolvedEventMatch) -> None:
    found = tables.count_of_all(step, STRIDE, Unshared())
    assert found is not None
    assert set(found) == {
        group * STRIDE + user for group in range(GROUPS) for user in brute.match(expected, group, step)
    }


def check(tables: EventTables, expected: list[EventRow], times: list[TimeRange]) -> None:
    for time in times:
        for step in asked(time):
            check_step(tables, expected, step)


@pytest.mark.parametrize("rows_per_value_min", [0, 1 << 20], ids=["joined", "not joined"])
@given(
    batches=st.lists(st.lists(rows, min_size=1, max_size=12), min_size=1, max_size=3),
    in_memory=st.lists(rows, max_size=4),
    times=st.lists(near_windows, min_size=1, max_size=4),
    removed=st.none() | st.integers(0, 3),
    floor=st.none() | drawing.near_times,
)
def test_windows_that_cut_parts(
    rows_per_value_min: int,
    store: Store,
    new_account: Callable[[], int],
    batches: list[list[EventRow]],
    in_memory: list[EventRow],
    times: list[TimeRange],
    removed: int | None,
    floor: int | None,
) -> None:
    """Each window is asked about in turn, and again once rows were added and removed."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (by_value, joined_rows):
            patch.setattr(module, "ROWS_PER_VALUE_MIN", rows_per_value_min)
        tables = EventTables(store, new_account(), GROUPS)
        known: list[EventRow] = []
        for batch in batches:
            for row in batch:
                row.sequence = len(known)
                known.append(row)
            tables.add(batch)
            checkpoint(store, tables)
        times = [*times, TimeRange()]
        check(tables, known, times)
        check(tables, known, times)
        for row in in_memory:
            row.sequence = len(known)
            known.append(row)
        tables.add(in_memory)
        check(tables, known, times)
        if removed is not None:
            tables.extract(0, removed)
            known = [row for row in known if (row.group, row.user) != (0, removed)]
        if floor is not None:
            tables.remove_before(floor)
            known = [row for row in known if row.time >= floor]
        event("rows were removed" if removed is not None or floor is not None else "none was removed")
        check(tables, known, times)


@pytest.mark.parametrize("rows_per_value_min", [0, 1 << 20], ids=["joined", "not joined"])
def test_a_window_from_a_later_day_on_where_some_rows_have_no_value(
    rows_per_value_min: int,
    store: Store,
    new_account: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A third of the rows have no number, so the number of a row is not at the place of the row. Each
    question is the first one after the tables were opened, and then the second one.
    """
    for module in (by_value, joined_rows):
        monkeypatch.setattr(module, "ROWS_PER_VALUE_MIN", rows_per_value_min)
    known = [
        EventRow(
            at % GROUPS,
            at % 3,
            1,
            1,
            EventType.CUSTOM,
            (drawing.BASE_DAY + at // 2 % 4) * MICROS_PER_DAY + at,
            at,
            {2: float(at % 7)} if at % 3 else {1: "ab"[at % 2]},
        )
        for at in range(48)
    ]
    account = new_account()
    tables = EventTables(store, account, GROUPS)
    tables.add(known)
    checkpoint(store, tables)
    noon = drawing.BASE_DAY * MICROS_PER_DAY + MICROS_PER_DAY // 2
    for start in range(3):
        for end in (None, noon + 3 * MICROS_PER_DAY):
            for step in asked(TimeRange(noon + start * MICROS_PER_DAY, end)):
                opened = EventTables(store, account, GROUPS)
                check_step(opened, known, step)
                check_step(opened, known, step)


def test_many_parts_are_left_to_questions_group_by_group(
    tables: EventTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.add([EventRow(group, 1, 1, 1, EventType.CUSTOM, 5, group, {}) for group in range(GROUPS)])
    (step, *_) = asked(TimeRange())
    found = tables.count_of_all(step, STRIDE, Unshared())
    assert found is not None
    assert set(found) == {1, STRIDE + 1}
    monkeypatch.setattr(tables_module, "PARTS_AT_ONCE_MAX", GROUPS - 1)
    assert tables.count_of_all(step, STRIDE, Unshared()) is None
