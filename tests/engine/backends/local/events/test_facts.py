"""Table figures compared with brute force, across additions, removals and checkpoints that may fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.events import ColumnCache, EventRow, EventTables, TableFacts, compaction
from engine.backends.local.events.frame import ColumnKey
from engine.backends.local.events.part import STRUCTURE
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.store import Store
from engine.criteria.model import EventType
from engine.values import MICROS_PER_DAY, Kind, Micros, kind_of
from tests.engine.backends.local.events import drawing
from tests.engine.backends.local.events.checkpoints import stage
from tests.engine.backends.local.events.conftest import GROUPS

ACTIONS = ("look", "look", "checkpoint", "aborted checkpoint", "reopen", "extract", "remove before")
NAMES, INPUTS = (1, 2), (None, 1, 2, 3)


def facts_by_hand(rows: Iterable[EventRow], name: int, input_number: int | None) -> list[TableFacts]:
    tables: dict[tuple[int, EventType], list[EventRow]] = {}
    for row in rows:
        if row.name_number == name and input_number in (None, row.input_number):
            tables.setdefault((row.input_number, row.type), []).append(row)
    return [
        TableFacts(
            *key,
            events=len(found),
            users=len({(row.group, row.user) for row in found}),
            first_time=min(row.time for row in found),
            last_time=max(row.time for row in found),
        )
        for key, found in sorted(tables.items())
    ]


def spans_by_hand(
    rows: Iterable[EventRow], name: int, input_number: int | None
) -> dict[ColumnKey, tuple[Micros, Micros]]:
    times: dict[ColumnKey, list[Micros]] = {}
    for row in rows:
        if row.name_number == name and input_number in (None, row.input_number):
            for attribute, value in row.attributes.items():
                times.setdefault((attribute, kind_of(value)), []).append(row.time)
    return {tag: (min(found), max(found)) for tag, found in times.items()}


def assert_facts(tables: EventTables, rows: list[EventRow]) -> None:
    for name in NAMES:
        for input_number in INPUTS:
            expected = facts_by_hand(rows, name, input_number)
            assert sorted(tables.facts(name, input_number)) == expected
            assert tables.attributes(name, input_number) == spans_by_hand(rows, name, input_number)
    for number in (1, 2, 3):
        assert tables.names_through(number) >= {r.name_number for r in rows if r.input_number == number}


def checkpoint(store: Store, tables: EventTables, *, abort: bool = False) -> None:
    with suppress(InterruptedError), store.index.writing() as txn:
        stage(tables)
        tables.write(txn)
        if abort:
            raise InterruptedError


@pytest.mark.parametrize("cache_bytes", [1, 1 << 20])
@pytest.mark.parametrize("purge_rows", [0, 1 << 18])
def test_facts_cover_exactly_the_live_rows(
    store: Store,
    new_account: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    cache_bytes: int,
    purge_rows: int,
) -> None:
    """Without a rewrite allowance, removed rows stay as tombstones; a small cache evicts the users."""
    monkeypatch.setattr(compaction, "PURGED_ROWS_PER_CHECKPOINT", purge_rows)

    @given(st.lists(st.tuples(drawing.rows(10), st.sampled_from(ACTIONS)), max_size=6))
    def holds(steps: list[tuple[list[EventRow], str]]) -> None:
        account = new_account()
        tables = EventTables(store, account, GROUPS, ColumnCache(cache_bytes))
        kept: list[EventRow] = []
        for rows, action in steps:
            tables.add(rows)
            kept += rows
            match action:
                case "look":
                    assert_facts(tables, kept)
                case "checkpoint" | "aborted checkpoint":
                    checkpoint(store, tables, abort=action != "checkpoint")
                case "reopen":
                    checkpoint(store, tables)
                    tables = EventTables(store, account, GROUPS, ColumnCache(cache_bytes))
                case "extract" if kept:
                    gone = kept[0]
                    tables.extract(gone.group, gone.user)
                    kept = [row for row in kept if (row.group, row.user) != (gone.group, gone.user)]
                case "remove before" if kept:
                    instant = kept[-1].time
                    tables.remove_before(instant)
                    kept = [row for row in kept if row.time >= instant]
        assert_facts(tables, kept)

    holds()


def test_only_the_users_of_stored_events_are_read(store: Store, new_account: Callable[[], int]) -> None:
    account = new_account()
    tables = EventTables(store, account, GROUPS)
    times = [drawing.BASE_DAY * MICROS_PER_DAY + index for index in range(100)]
    tables.add(
        [
            EventRow(
                0,
                index // 2,
                1,
                1,
                EventType.CUSTOM,
                time,
                index,
                {1: 1.0, 2: True} if index == 7 else {1: 1.0},
            )
            for index, time in enumerate(times)
        ]
    )
    checkpoint(store, tables)
    with store.index.writing() as txn:
        columns = list(txn.keys(key(Family.EVENT_COLUMN, account)))
        for column in columns:
            if parts_of(column)[-2:] != (STRUCTURE, 0):
                txn.delete(column)
    assert len(columns) == 6
    reopened = EventTables(store, account, GROUPS)
    assert reopened.facts(1) == [TableFacts(1, EventType.CUSTOM, 100, 50, times[0], times[-1])]
    assert reopened.attributes(1) == {
        (1, Kind.NUMBER): (times[0], times[-1]),
        (2, Kind.BOOL): (times[7], times[7]),
    }
