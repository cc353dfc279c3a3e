"""Windows to the microsecond, splitting, removing, damage, and checkpoints that do or do not commit."""

from __future__ import annotations

import functools
import operator
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import lmdb
import msgspec
import numpy as np
import pytest
from pyroaring import BitMap

from engine.backends.local.events import (
    ColumnCache,
    EventRow,
    EventTables,
    ResolvedEventMatch,
    ResolvedSelection,
    ResolvedSequence,
    compaction,
)
from engine.backends.local.events import by_value as by_value_module
from engine.backends.local.events import part as part_module
from engine.backends.local.events import select as select_module
from engine.backends.local.events import table as table_module
from engine.backends.local.events import tables as tables_module
from engine.backends.local.events.columns import DictionaryColumn, unpack_column
from engine.backends.local.events.compaction import SLICE_PARTS_MAX
from engine.backends.local.events.part import STRUCTURE
from engine.backends.local.storage.arrays import Ints, unpack_integers
from engine.backends.local.storage.keys import Family, key, parts_of
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Unshared
from engine.criteria.conditions import WhereAttribute
from engine.criteria.model import Aggregate, Equals, EventType
from engine.criteria.ranges import ALL_NUMBERS, Interval, TimeRange
from engine.errors import DataLoss
from engine.values import MICROS_PER_DAY, MICROS_PER_HOUR, Kind, Value
from tests.engine.backends.local.events import brute
from tests.engine.backends.local.events.checkpoints import checkpoint, stage

DAY = 20_500
NOON = DAY * MICROS_PER_DAY + 12 * MICROS_PER_HOUR

ANYTHING = ResolvedSelection(inputs=(1,))
NewAccount = Callable[[], int]


def row(user: int, time: int = NOON, sequence: int = 1, **attributes: Value) -> EventRow:
    numbered = {int(name[1:]): value for name, value in attributes.items()}
    return EventRow(0, user, 1, 1, EventType.CUSTOM, time, sequence, numbered)


def has_before(tables: EventTables, instant: int) -> bool:
    return any(tables.tables_before(name, instant) for name in tables.event_names())


def test_others_read_whenever_a_checkpoint_lets_them(store: Store, new_account: NewAccount) -> None:
    """Also what takes long: the session of the checkpoint is open meanwhile, and is not theirs."""
    tables = EventTables(store, new_account(), 1)
    tables.add([row(user) for user in range(50)])
    found: list[int] = []

    def read() -> None:
        found.append(len(tables.match(0, counted(1.0))))
        found.append(len(tables.match(0, counted(1.0), BitMap(range(10, 40)))))

    for sequence in (1, 2):
        tables.add([row(60, sequence=sequence)])
        checkpoint(store, tables, read)
    assert found == [51, 30, 51, 30] * 2


def counted(low: float, **selection: object) -> ResolvedEventMatch:
    chosen = ResolvedSelection(inputs=(1,), **selection)  # type: ignore[arg-type]
    return ResolvedEventMatch(selection=chosen, intervals=(Interval(low),))


@pytest.mark.parametrize("stored", [False, True])
def test_windows_are_exact_to_the_microsecond(store: Store, tables: EventTables, stored: bool) -> None:
    tables.add([row(user, NOON + user - 5, user) for user in range(10)])
    if stored:
        checkpoint(store, tables)
    for start, end, expected in [
        (NOON - 2, NOON + 2, {3, 4, 5, 6}),
        (NOON, NOON + 1, {5}),
        (NOON, NOON, set()),
        (None, NOON - 4, {0}),
        (NOON + 4, None, {9}),
        (NOON - 5, NOON + 5, set(range(10))),
        (-(10**30), 10**30, set(range(10))),
        (NOON + 5, None, set()),
    ]:
        found = tables.users(0, ResolvedSelection(inputs=(1,), time=TimeRange(start, end)))
        assert set(found) == expected


def test_every_aggregate_of_worked_out_figures(tables: EventTables) -> None:
    # User 1: 0.1 and 0.2 on one day, then 5 the next; two at the same time arrive in the order 7, 8.
    tables.add(
        [
            row(1, NOON, 1, _1=0.1, _2="x"),
            row(1, NOON + 1, 2, _1=0.2, _2=True),
            row(2, NOON + MICROS_PER_DAY, 4, _1=8.0, _2=1.0),
            row(2, NOON + MICROS_PER_DAY, 3, _1=7.0, _2="x"),
            row(2, NOON, 5, _2="x"),
        ]
    )

    def holds_at(aggregate: Aggregate, user: int, number: float, of: int = 1) -> bool:
        interval = Interval(number, True, number, True)
        step = ResolvedEventMatch(selection=ANYTHING, aggregate=aggregate, of=of, intervals=(interval,))
        found = user in tables.match(0, step)
        assert found == (user in tables.match(0, step, BitMap([user])))
        return found

    assert holds_at(Aggregate.COUNT, 1, 2.0)
    assert holds_at(Aggregate.COUNT, 2, 3.0)
    assert holds_at(Aggregate.DISTINCT_DAYS, 1, 1.0)
    assert holds_at(Aggregate.DISTINCT_DAYS, 2, 2.0)
    assert holds_at(Aggregate.SUM, 1, 0.3)
    assert not holds_at(Aggregate.SUM, 1, 0.1 + 0.2)
    assert holds_at(Aggregate.AVERAGE, 1, 0.15)
    assert holds_at(Aggregate.AVERAGE, 2, 7.5)
    assert holds_at(Aggregate.MIN, 1, 0.1)
    assert holds_at(Aggregate.MAX, 2, 8.0)
    assert holds_at(Aggregate.FIRST, 2, 7.0)
    assert holds_at(Aggregate.LAST, 2, 8.0)
    assert holds_at(Aggregate.DISTINCT, 1, 2.0, of=2)
    assert holds_at(Aggregate.DISTINCT, 2, 2.0, of=2)
    assert holds_at(Aggregate.FIRST, 1, 0.1)


@pytest.mark.parametrize("beside", [1.0, 0.1234567890123456, 1e308, 5e-324])
def test_sums_and_averages_at_the_limit(tables: EventTables, beside: float) -> None:
    """`beside` decides how the column is kept: as integers, or as doubles, whose sums are off by a hair."""
    tables.add([row(1, NOON, 1, _1=0.1), row(1, NOON, 2, _1=0.2)])
    tables.add([row(2, NOON, 3 + index, _1=0.1) for index in range(10)])
    tables.add([row(3, NOON, 20, _1=beside), row(3, NOON, 21, _1=-beside)])
    assert 0.1 + 0.2 > 0.3
    assert functools.reduce(operator.add, [0.1] * 10) < 1.0

    def found(aggregate: Aggregate, interval: Interval) -> set[int]:
        step = ResolvedEventMatch(selection=ANYTHING, aggregate=aggregate, of=1, intervals=(interval,))
        return set(tables.match(0, step))

    for user, total, average in ((1, 0.3, 0.15), (2, 1.0, 0.1), (3, 0.0, 0.0)):
        for aggregate, limit in ((Aggregate.SUM, total), (Aggregate.AVERAGE, average)):
            assert user in found(aggregate, Interval(limit, True, limit, True))
            assert user in found(aggregate, Interval(limit, True, None, True))
            assert user in found(aggregate, Interval(None, True, limit, True))
            assert user not in found(aggregate, Interval(limit, False, None, True))
            assert user not in found(aggregate, Interval(None, True, limit, False))


def test_sums_of_large_integers_and_columns_of_different_exponents(tables: EventTables) -> None:
    """Past 2^53 hundredths doubles could no longer add the integers."""
    large, hundred = 999_999_999_999.0, range(100)
    tables.add([row(1, NOON, index, _1=large) for index in hundred])
    tables.add([EventRow(0, 1, 2, 1, EventType.CUSTOM, NOON, 200, {1: 0.25})])
    tables.add([EventRow(0, 2, 2, 1, EventType.CUSTOM, NOON, 201, {1: 0.75})])
    both = ResolvedSelection(inputs=(1, 2))
    total = 99_999_999_999_900.25
    for limit, aggregate in ((total, Aggregate.SUM), (0.75, Aggregate.SUM), (0.75, Aggregate.AVERAGE)):
        point = Interval(limit, True, limit, True)
        step = ResolvedEventMatch(selection=both, aggregate=aggregate, of=1, intervals=(point,))
        assert set(tables.match(0, step)) == ({1} if limit == total else {2})
    above = Interval(990_099_009_900.0, True, 990_099_009_901.0, True)
    step = ResolvedEventMatch(selection=both, aggregate=Aggregate.AVERAGE, of=1, intervals=(above,))
    assert set(tables.match(0, step)) == {1}


@pytest.mark.parametrize("checkpoint_after", [(), (3,), (7,), (3, 7)])
def test_first_and_last_of_equal_times_follow_arrival(
    store: Store, tables: EventTables, checkpoint_after: tuple[int, ...]
) -> None:
    """The rows come through three inputs, out of order, and sit in as many tables and more parts."""
    arrival = [6, 2, 9, 1, 5, 8, 3, 7, 4]
    for index, sequence in enumerate(arrival):
        attributes: dict[int, Value] = {1: float(sequence)}
        tables.add([EventRow(0, 1, index % 3, 1, EventType.CUSTOM, NOON, sequence, attributes)])
        assert tables.users(0, ResolvedSelection(inputs=(0, 1, 2)))
        if index in checkpoint_after:
            checkpoint(store, tables)
    for inputs in ((0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2), (2, 1, 0)):
        held = [float(sequence) for index, sequence in enumerate(arrival) if index % 3 in inputs]
        for aggregate, expected in ((Aggregate.FIRST, min(held)), (Aggregate.LAST, max(held))):
            for number in held:
                step = ResolvedEventMatch(
                    selection=ResolvedSelection(inputs=inputs),
                    aggregate=aggregate,
                    of=1,
                    intervals=(Interval(number, True, number, True),),
                )
                assert set(tables.match(0, step)) == ({1} if number == expected else set())


@pytest.mark.parametrize("aggregate", [Aggregate.FIRST, Aggregate.LAST])
def test_the_first_and_the_last_of_parts_that_overlap_and_parts_that_do_not(
    store: Store, tables: EventTables, monkeypatch: pytest.MonkeyPatch, aggregate: Aggregate
) -> None:
    """Stored days that share no instant; two checkpoints of one day that cross, and meet in one instant; a
    part in
    memory over several days.
    """
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 8)
    batches = [
        [(day, index % 5, day * 10 + index, index % 3) for day in range(4) for index in range(6)],
        [(1, 0, 51, 1), (1, 1, 52, 0), (1, 2, 53, 5)],
        [(6, 1, 61, 0), (6, 2, 62, 2)],
        [(6, 1, 63, 0), (6, 2, 64, 1), (7, 4, 65, 0)],
        [(0, 3, 71, 0), (3, 4, 72, 9), (6, 1, 73, 0), (8, 0, 74, 0)],
    ]
    held: list[EventRow] = []
    for number, batch in enumerate(batches):
        rows = [
            row(user, NOON + day * MICROS_PER_DAY + late, 1 + len(held) + index, _1=float(value))
            for index, (day, user, value, late) in enumerate(batch)
        ]
        tables.add(rows)
        held += rows
        if number < len(batches) - 1:
            checkpoint(store, tables)
        for value in {value for batch in batches for _, _, value, _ in batch}:
            step = ResolvedEventMatch(
                selection=ANYTHING, aggregate=aggregate, of=1, intervals=(Interval(value, True, value, True),)
            )
            assert set(tables.match(0, step)) == brute.match(held, 0, step)


@pytest.mark.parametrize("aggregate", [Aggregate.FIRST, Aggregate.LAST])
def test_first_and_last_beside_late_rows_below_the_floor(
    store: Store, tables: EventTables, aggregate: Aggregate
) -> None:
    """What is live of one part lies after a part that arrived later, although it began before it."""
    removed, late, live = NOON, NOON + MICROS_PER_DAY, NOON + 9 * MICROS_PER_DAY
    tables.add([row(0, removed, 1, _1=1.0), *(row(user, live, 2 + user, _1=2.0) for user in range(4))])
    checkpoint(store, tables)
    tables.remove_before(live - MICROS_PER_DAY)
    checkpoint(store, tables)
    tables.add([EventRow(0, user, 2, 1, EventType.CUSTOM, late, 9 + user, {1: 3.0}) for user in (3, 4)])
    checkpoint(store, tables)

    def users(number: float) -> set[int]:
        step = ResolvedEventMatch(
            selection=ResolvedSelection(inputs=(1, 2)),
            aggregate=aggregate,
            of=1,
            intervals=(Interval(number, True, number, True),),
        )
        return set(tables.match(0, step))

    is_last = aggregate is Aggregate.LAST
    assert users(1.0) == set()
    assert users(2.0) == ({0, 1, 2, 3} if is_last else {0, 1, 2})
    assert users(3.0) == ({4} if is_last else {3, 4})


def test_a_later_start_succeeds_where_the_earliest_fails(tables: EventTables) -> None:
    a, b = (WhereAttribute(key=1, test=Equals(letter)) for letter in "ab")
    tables.add([row(1, NOON, 1, _1="a"), row(1, NOON + 8, 2, _1="a"), row(1, NOON + 10, 3, _1="b")])
    tables.add([row(2, NOON, 4, _1="a"), row(2, NOON, 5, _1="b")])
    steps = tuple(ResolvedSelection(inputs=(1,), where=where) for where in (a, b))

    def found(within: int | None, *steps: ResolvedSelection) -> set[int]:
        return set(tables.match_sequence(0, ResolvedSequence(steps=steps, within=within)))

    assert found(2, *steps) == {1}
    assert found(1, *steps) == set()
    assert found(None, *steps) == {1}
    # The same step again needs a strictly later event each time.
    assert found(None, steps[0], steps[0]) == {1}
    assert found(None, steps[0], steps[0], steps[0]) == set()
    assert found(None, steps[1], steps[0]) == set()


def test_tests_of_different_kinds_are_different_steps(tables: EventTables) -> None:
    one, true = (
        ResolvedSelection(inputs=(1,), where=WhereAttribute(key=1, test=Equals(value)))
        for value in (1.0, True)
    )
    tables.add([row(1, NOON, 1, _1=1.0), row(1, NOON + 1, 2, _1=1.0)])
    tables.add([row(2, NOON, 3, _1=1.0), row(2, NOON + 1, 4, _1=True)])
    assert set(tables.match_sequence(0, ResolvedSequence(steps=(one, true)))) == {2}
    assert set(tables.match_sequence(0, ResolvedSequence(steps=(one, one)))) == {1}


@pytest.mark.parametrize("aggregate", [Aggregate.COUNT, Aggregate.DISTINCT_DAYS, Aggregate.DISTINCT])
def test_counts_above_255(store: Store, tables: EventTables, aggregate: Aggregate) -> None:
    """No part holds more than 255 rows of the user, all together do."""
    for stretch in range(2):
        days = range(stretch * 200, stretch * 200 + 200)
        tables.add([row(1, NOON + day * MICROS_PER_DAY, day, _1=float(day)) for day in days])
        checkpoint(store, tables)
    for number, expected in ((400.0, {1}), (400.0 - 256, set()), (200.0, set())):
        exactly = (Interval(number, True, number, True),)
        step = ResolvedEventMatch(selection=ANYTHING, aggregate=aggregate, of=1, intervals=exactly)
        assert set(tables.match(0, step)) == expected


def test_dense_and_sparse_parts_count_alike(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many users, several parts and slices: all ways of adding up and of restricting meet here."""
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 200)
    account = new_account()
    tables = EventTables(store, account, 1)
    drawn = random.Random(20)
    rows: list[EventRow] = []
    for batch in range(6):
        users_max = 80 if batch < 5 else 20_000
        new = [
            row(
                drawn.randrange(users_max),
                (DAY + drawn.randrange(40)) * MICROS_PER_DAY + drawn.randrange(MICROS_PER_DAY),
                len(rows) + index,
                _1=drawn.randrange(2_000) / 100,
            )
            for index in range(300)
        ]
        rows += new
        tables.add(new)
        if batch % 2:
            checkpoint(store, tables)
    start, end = DAY * MICROS_PER_DAY + MICROS_PER_HOUR, (DAY + 33) * MICROS_PER_DAY
    for aggregate in Aggregate:
        for low in (3.0, 10.0):
            step = ResolvedEventMatch(
                selection=ResolvedSelection(inputs=(1,), time=TimeRange(start, end)),
                aggregate=aggregate,
                of=1,
                time_zone="Europe/Berlin",
                intervals=(Interval(low),),
            )
            expected = brute.match(rows, 0, step)
            assert set(tables.match(0, step)) == expected
            for universe in (range(3), range(60), range(40, 20_000)):
                assert set(tables.match(0, step, BitMap(universe))) == expected & set(universe)
    assert len(stored_slices(store, account)) > 8


def stored_slices(store: Store, account: int) -> list[bytes]:
    with store.index.reading() as txn:
        return list(txn.keys(key(Family.EVENT_SLICE, account)))


def stored_texts(store: Store, account: int) -> set[Value]:
    """What is in the dictionaries of all columns of strings, used by a row or not."""
    texts: set[Value] = set()
    with store.index.reading() as txn:
        for found, value in txn.scan(key(Family.EVENT_COLUMN, account)):
            *_, attribute, kind = parts_of(found)
            if attribute != STRUCTURE and kind == Kind.STRING:
                column = unpack_column(value)
                assert isinstance(column, DictionaryColumn)
                texts.update(column.entries.values)
    return texts


def column_keys(store: Store, account: int) -> list[bytes]:
    with store.index.reading() as txn:
        return list(txn.keys(key(Family.EVENT_COLUMN, account)))


def test_removed_users_leave_nothing_behind_after_checkpoints(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(user, NOON + user, user, _1=f"<{user}>") for user in range(100)])
    tables.add([row(500, NOON + 5_000 * MICROS_PER_DAY, 500)])
    checkpoint(store, tables)
    keys_before = column_keys(store, account)
    assert len(tables.extract(0, 7)) == 1
    assert tables.extract(0, 7) == []
    assert tables.extract(0, 500)[0].time == NOON + 5_000 * MICROS_PER_DAY
    assert set(tables.users(0, ANYTHING)) == set(range(100)) - {7}
    # Tombstones are stored even without an allowance for rewriting.
    monkeypatch.setattr(compaction, "PURGED_ROWS_PER_CHECKPOINT", 0)
    checkpoint(store, tables)
    assert column_keys(store, account) == keys_before
    tables = EventTables(store, account, 1)
    assert set(tables.users(0, ANYTHING)) == set(range(100)) - {7}
    assert tables.row_count() == 101
    monkeypatch.setattr(compaction, "PURGED_ROWS_PER_CHECKPOINT", 1_000)
    checkpoint(store, tables)
    assert set(tables.users(0, ANYTHING)) == set(range(100)) - {7}
    assert tables.row_count() == 99
    assert len(stored_slices(store, account)) == 1
    assert stored_texts(store, account) == {f"<{user}>" for user in range(100)} - {"<7>"}


def stored_times(store: Store, account: int) -> int:
    """How many rows are stored, live or not."""
    with store.index.reading() as txn:
        records = [
            msgspec.msgpack.decode(value, type=table_module.SliceRecord)
            for _, value in txn.scan(key(Family.EVENT_SLICE, account))
        ]
    return sum(part.rows for record in records for part in record.parts)


def test_rows_before_the_floor_are_purged_when_it_pays(store: Store, new_account: NewAccount) -> None:
    """A slice of 1,024 days with ten rows a day, from which ever more days are removed."""
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(index % 10, DAY * MICROS_PER_DAY + index, index) for index in range(100)])
    days = [DAY * MICROS_PER_DAY + (1 + index // 10) * MICROS_PER_DAY for index in range(200)]
    tables.add([row(index % 10, time, 100 + index) for index, time in enumerate(days)])
    checkpoint(store, tables)
    for day, counted_rows, on_disk in (
        (DAY, 300, 300),  # nothing is so old
        (DAY + 1, 200, 200),  # a third has gone: rewritten
        (DAY + 5, 160, 200),  # a fifth of those: not worth it yet
        (DAY + 6, 150, 200),  # a quarter: the most that stays
        (DAY + 7, 140, 140),
        (DAY + 21, 0, 0),  # all of it: gone without being read
    ):
        tables.remove_before(day * MICROS_PER_DAY)
        assert tables.facts(1) == [] or tables.facts(1)[0].events == counted_rows
        checkpoint(store, tables)
        assert not tables.is_purging
        assert stored_times(store, account) == on_disk
        for opened in (tables, EventTables(store, account, 1)):
            assert sum(facts.events for facts in opened.facts(1)) == counted_rows
            assert set(opened.match(0, counted(float(max(1, counted_rows // 10))))) == (
                set(range(10)) if counted_rows else set()
            )
    assert column_keys(store, account) == []
    assert stored_slices(store, account) == []


def test_erasing_a_user_purges_rows_before_the_floor_too(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(7, NOON, 1, _1="<7>")])
    tables.add([row(user, NOON + 1, 2 + user, _1=f"<{user}>") for user in range(6)])
    checkpoint(store, tables)
    assert tables.remove_before(NOON + 1) == [(1, 1, 0)]
    assert tables.extract(0, 7) == []
    checkpoint(store, tables)
    assert stored_texts(store, account) == {f"<{user}>" for user in range(6)}


def test_rows_added_after_a_removal_count_whatever_their_time(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add(
        [
            row(1, NOON, 1),
            row(2, NOON + 2, 2),
            row(3, NOON + 3, 3),
            *(row(4, NOON + 4, 4 + n) for n in range(9)),
        ]
    )
    checkpoint(store, tables)
    tables.remove_before(NOON + 2)
    tables.add([row(5, NOON - 1, 20)])
    assert set(tables.users(0, ANYTHING)) == {2, 3, 4, 5}
    checkpoint(store, tables)
    for opened in (tables, EventTables(store, account, 1)):
        assert set(opened.users(0, ANYTHING)) == {2, 3, 4, 5}
        assert has_before(opened, NOON)
        assert not has_before(opened, NOON - 1)


def test_only_live_rows_are_removed(store: Store, new_account: NewAccount) -> None:
    """Neither rows removed before, which stay stored for a while, nor those of a removed user."""
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(1, NOON, 1), *(row(2, NOON + 5, 2 + n) for n in range(9))])
    tables.add([EventRow(0, 3, 1, 2, EventType.CUSTOM, NOON + 1, 20, {})])
    checkpoint(store, tables)
    assert set(tables.remove_before(NOON + 3)) == {(1, 1, 0), (1, 2, 0)}
    checkpoint(store, tables)
    for opened in (tables, EventTables(store, account, 1)):
        for instant, expected in ((NOON + 4, []), (NOON + 6, [(1, 1, 0)])):
            assert has_before(opened, instant) == bool(expected), instant
    assert tables.remove_before(NOON + 4) == []
    assert len(tables.extract(0, 2)) == 9
    assert not has_before(tables, NOON + 6)
    assert tables.remove_before(NOON + 6) == []


def stored_parts(store: Store, account: int) -> list[list[int]]:
    """The rows of each part, largest first, by slice in the order of time."""
    with store.index.reading() as txn:
        return [
            sorted(
                (part.rows for part in msgspec.msgpack.decode(value, type=table_module.SliceRecord).parts),
                reverse=True,
            )
            for _, value in txn.scan(key(Family.EVENT_SLICE, account))
        ]


def test_past_days_merge_into_one_part_and_late_rows_do_not_rewrite_it(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 100)
    account = new_account()
    tables = EventTables(store, account, 1)
    held: list[EventRow] = []

    def arrive(day: int, rows: int) -> None:
        new = [row(n % 7, (DAY + day) * MICROS_PER_DAY + n, 1 + len(held) + n) for n in range(rows)]
        held.extend(new)
        tables.add(new)
        checkpoint(store, tables)

    # 1. Three days of five checkpoints each: the last stays as it came.
    for day in range(3):
        for _ in range(5):
            arrive(day, 18)
    assert stored_parts(store, account)[-1] == [18] * 5
    arrive(3, 20)
    assert stored_parts(store, account) == [[90], [90], [90], [20]]
    # 2. Late rows gather beside a day, until together they are an eighth of it.
    for late, parts in ((3, [90, 3]), (3, [90, 6]), (3, [90, 9]), (3, [102])):
        arrive(0, late)
        arrive(3, 1)
        assert stored_parts(store, account)[0] == parts
    assert set(tables.match(0, counted(float(len(held) // 7)))) == brute.match(
        held, 0, counted(float(len(held) // 7))
    )


@pytest.mark.parametrize("stored", [False, True])
def test_removals_are_visible_immediately(store: Store, tables: EventTables, stored: bool) -> None:
    tables.add([row(user, NOON + user, user, _1="a") for user in range(8)])
    if stored:
        checkpoint(store, tables)
    for gone in range(8):
        left = set(range(gone, 8))
        assert set(tables.match(0, counted(1.0))) == left
        assert set(tables.match(0, counted(1.0, where=WhereAttribute(key=1, test=Equals("a"))))) == left
        assert set(tables.match(0, counted(1.0), BitMap(range(8)))) == left
        assert len(tables.extract(0, gone)) == 1
    assert not tables.match(0, counted(1.0))


def test_a_removed_user_may_come_back(store: Store, tables: EventTables) -> None:
    tables.add([row(1, sequence=1), row(1, sequence=2), row(2, sequence=3)])
    checkpoint(store, tables)
    tables.extract(0, 1)
    tables.add([row(1, sequence=4)])
    assert set(tables.match(0, counted(1.0))) == {1, 2}
    assert set(tables.match(0, counted(2.0))) == set()
    checkpoint(store, tables)
    assert set(tables.match(0, counted(1.0))) == {1, 2}
    assert [found.sequence for found in tables.extract(0, 1)] == [4]


def test_only_tables_with_such_rows_are_changed_by_a_removal(tables: EventTables) -> None:
    """An account may have thousands of tables: what others buffered stays as it is."""
    names = range(1, 6)
    for name in names:
        rows = [row(user, NOON + name, 10 * name + user) for user in (name, 9)]
        tables.add([msgspec.structs.replace(each, name_number=name) for each in rows])
    buffered = {table.key[2]: table for table in tables._groups[0].tables.values()}

    def untouched() -> set[int]:
        return {name for name, table in buffered.items() if table._buffered is not None}

    yields: list[None] = []
    found = tables.tables_with(0, 2, lambda: yields.append(None))
    assert ([table.key[2] for table in found], len(yields)) == ([2], 1)
    assert untouched() == set(names)
    assert [each.name_number for each in tables.extract(0, 2, found)] == [2]
    assert untouched() == {1, 3, 4, 5}
    tables.remove_users(0, np.array([3, 7], np.uint32), lambda: None)
    assert untouched() == {1, 4, 5}
    assert tables.remove_before(NOON + 2) == [(1, 1, 0)]
    assert untouched() == {4, 5}
    assert set(tables.users(0, ANYTHING)) == {4, 5, 9}


@pytest.mark.parametrize("is_written", [False, True])
def test_changes_between_a_checkpoint_and_its_commit_are_kept(
    store: Store, new_account: NewAccount, is_written: bool
) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(user, sequence=user) for user in range(5)])
    with store.index.writing() as txn:
        stage(tables)
        if is_written:
            tables.write(txn)
        tables.add([row(8, sequence=8)])
        assert len(tables.extract(0, 3)) == 1
        assert set(tables.users(0, ANYTHING)) == {0, 1, 2, 4, 8}
        if not is_written:
            tables.write(txn)
    # The checkpoint wrote what there was when it began: a replay has to find it.
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == {0, 1, 2, 3, 4}
    assert set(tables.users(0, ANYTHING)) == {0, 1, 2, 4, 8}
    assert tables.row_count() == 6
    checkpoint(store, tables)
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == {0, 1, 2, 4, 8}


@pytest.mark.parametrize("is_written", [False, True])
def test_removals_between_a_checkpoint_and_its_commit_are_kept(
    store: Store, new_account: NewAccount, is_written: bool
) -> None:
    """Of rows that the checkpoint rewrites, leaves alone, and merges."""
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(user, NOON + user, user) for user in range(5)])
    tables.add([row(9, NOON - 2_000 * MICROS_PER_DAY, 9)])
    checkpoint(store, tables)
    tables.add([row(user, NOON + user, user) for user in range(10, 15)])
    with store.index.writing() as txn:
        stage(tables)
        if is_written:
            tables.write(txn)
        assert tables.remove_before(NOON + 12) == [(1, 1, 0)]
        assert set(tables.users(0, ANYTHING)) == {12, 13, 14}
        if not is_written:
            tables.write(txn)
    assert set(tables.users(0, ANYTHING)) == {12, 13, 14}
    assert not has_before(tables, NOON + 12)
    checkpoint(store, tables)
    for opened in (tables, EventTables(store, account, 1)):
        assert set(opened.users(0, ANYTHING)) == {12, 13, 14}
        assert sum(facts.events for facts in opened.facts(1)) == 3


def test_removal_of_old_rows_survives_an_aborted_checkpoint(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(1, NOON, 1), *(row(2, NOON + 1, 2 + n) for n in range(9))])
    checkpoint(store, tables)
    tables.remove_before(NOON + 1)
    checkpoint_in_vain(store, tables)
    assert set(tables.users(0, ANYTHING)) == {2}
    checkpoint(store, tables)
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == {2}


def checkpoint_in_vain(store: Store, tables: EventTables) -> None:
    def aborted() -> None:
        with store.index.writing() as txn:
            stage(tables)
            tables.write(txn)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        aborted()


def test_removal_survives_an_aborted_checkpoint(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(1, sequence=1), row(2, sequence=2)])
    checkpoint(store, tables)
    tables.extract(0, 1)
    checkpoint_in_vain(store, tables)
    assert set(tables.users(0, ANYTHING)) == {2}
    checkpoint(store, tables)
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == {2}


def test_aborted_checkpoint_is_repeated(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    tables.add([row(1, sequence=1)])
    checkpoint_in_vain(store, tables)
    with store.index.writing() as txn:
        txn.put(key(Family.META, b"other"), b"a transaction of someone else")
    tables.add([row(2, sequence=2)])
    assert set(tables.users(0, ANYTHING)) == {1, 2}
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == set()
    checkpoint(store, tables)
    assert set(EventTables(store, account, 1).users(0, ANYTHING)) == {1, 2}


def test_many_checkpoints_keep_few_parts_and_no_stray_columns(store: Store, new_account: NewAccount) -> None:
    account = new_account()
    tables = EventTables(store, account, 1)
    for number in range(60):
        tables.add([row(user, NOON + number, number * 10 + user) for user in range(3)])
        checkpoint(store, tables)
    assert set(tables.match(0, counted(60.0))) == {0, 1, 2}
    parts = {found[:-5] for found in column_keys(store, account)}
    assert 1 <= len(parts) <= SLICE_PARTS_MAX
    assert len(column_keys(store, account)) == 4 * len(parts)
    assert tables.row_count() == 180


def test_a_store_opened_again_answers_the_same(tmp_path: Path) -> None:
    store = Store.open(tmp_path, groups=1)
    tables = EventTables(store, 1, 1)
    tables.add([row(user, NOON + user, user, _1=float(user), _2=("a",)) for user in range(50)])
    checkpoint(store, tables)
    before = tables.row_count()
    store.close()
    store = Store.open(tmp_path)
    tables = EventTables(store, 1, 1)
    assert tables.row_count() == before
    assert set(
        tables.users(0, ResolvedSelection(inputs=(1,), where=WhereAttribute(key=1, test=Equals(7.0))))
    ) == {7}
    assert tables.extract(0, 9) == [row(9, NOON + 9, 9, _1=9.0, _2=("a",))]
    store.close()


def test_a_small_cache_changes_no_answer(store: Store, new_account: NewAccount) -> None:
    tables = EventTables(store, new_account(), 1, ColumnCache(bytes_max=1))
    tables.add([row(user % 7, NOON + user, user, _1=float(user)) for user in range(50)])
    checkpoint(store, tables)
    step = ResolvedEventMatch(selection=ANYTHING, aggregate=Aggregate.SUM, of=1, intervals=(Interval(175.0),))
    assert set(tables.match(0, step)) == {0, 4, 5, 6}
    assert set(tables.match(0, counted(8.0))) == {0}


def test_results_are_cached_when_the_cache_is_too_small_for_parts(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 8)
    # As parts of many rows, which are not joined.
    monkeypatch.setattr(select_module, "FEW_ROWS_MAX", 0)
    tables = EventTables(store, new_account(), 1, ColumnCache(bytes_max=2_000))
    days, users = range(40), range(20)
    tables.add(
        [row(user, NOON + day * MICROS_PER_DAY, day * len(users) + user) for day in days for user in users]
    )
    checkpoint(store, tables)
    unpacked: list[int] = []

    def counting(data: memoryview) -> Ints:
        unpacked.append(1)
        return unpack_integers(data)

    monkeypatch.setattr(part_module, "unpack_integers", counting)
    everything, half = counted(40.0), counted(20.0, time=TimeRange(None, NOON + 20 * MICROS_PER_DAY))
    # A part in the window has its users and its counts read; the days before the last are kept together.
    # A few columns of the first question still fit beside its counts, so that the second has fewer to read.
    for step, least, most in ((everything, 80, 80), (half, 1, 40), (everything, 0, 0), (half, 0, 0)):
        unpacked.clear()
        assert set(tables.match(0, step)) == set(users)
        assert least <= sum(unpacked) <= most


def test_counts_over_parts_of_few_rows_follow_windows_removals_and_new_rows(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 8)
    tables = EventTables(store, new_account(), 1)
    days, users = range(12), range(5)
    tables.add(
        [row(user, NOON + day * MICROS_PER_DAY, day * len(users) + user) for day in days for user in users]
    )
    checkpoint(store, tables)

    def found(at_least: float, start: int | None, end: int | None) -> set[int]:
        return set(tables.match(0, counted(at_least, time=TimeRange(start, end))))

    third, ninth = NOON + 3 * MICROS_PER_DAY, NOON + 9 * MICROS_PER_DAY
    for _ in range(2):
        assert found(6.0, third, ninth) == set(users)
        assert found(6.0, third + 1, ninth) == set()
        assert found(7.0, third, ninth + 1) == set(users)
        assert found(12.0, None, None) == set(users)
    # Rows in memory count with those that are stored.
    tables.add([row(3, third + 1, 1_000)])
    assert found(7.0, third, ninth) == {3}
    tables.remove_users(0, np.array([1], np.uint32), lambda: None)
    assert found(6.0, third, ninth) == {0, 2, 3, 4}
    tables.remove_before(third + 1)
    assert found(6.0, third, ninth) == {3}
    checkpoint(store, tables)
    assert found(6.0, None, ninth) == {3}
    assert found(5.0, None, ninth) == {0, 2, 3, 4}


def test_conditions_on_common_values_follow_windows_removals_and_new_rows(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 8)
    monkeypatch.setattr(select_module, "FEW_ROWS_MAX", 0)
    monkeypatch.setattr(by_value_module, "ROWS_PER_VALUE_MIN", 1)
    tables = EventTables(store, new_account(), 1)
    days, users = range(12), range(6)
    # Every third day "odd" for odd users; a list now and then; some rows have no value.
    values: dict[tuple[float, int], str | tuple[str, ...] | None] = {
        (day, user): ("odd", "x") if day == 4 else None if day % 3 == 2 else "odd" if user % 2 else "even"
        for day in days
        for user in users
    }
    rows = [
        row(
            user,
            NOON + int(day) * MICROS_PER_DAY,
            int(day) * len(users) + user,
            **({} if value is None else {"_1": value}),
        )
        for (day, user), value in values.items()
    ]
    tables.add(rows)
    checkpoint(store, tables)
    kept = {(day, user): value for (day, user), value in values.items() if value is not None}

    def agree(first: int, last: int) -> None:
        span = TimeRange(NOON + first * MICROS_PER_DAY, NOON + last * MICROS_PER_DAY)
        for text in ("odd", "even", "x", "none"):
            where = WhereAttribute(key=1, test=Equals(text))
            selection = ResolvedSelection(inputs=(1,), time=span, where=where)
            times = Counter(
                user
                for (day, user), value in kept.items()
                if first <= day < last and text in (value if isinstance(value, tuple) else (value,))
            )
            for least in (1.0, 3.0):
                step = ResolvedEventMatch(selection=selection, intervals=(Interval(least),))
                assert set(tables.match(0, step)) == {user for user, n in times.items() if n >= least}

    for _ in range(2):
        agree(0, 12)
        agree(2, 9)
    tables.add([row(2, NOON + 3 * MICROS_PER_DAY + 1, 1_000, _1="odd")])
    kept[3.5, 2] = "odd"
    agree(2, 9)
    tables.remove_users(0, np.array([1], np.uint32), lambda: None)
    kept = {(day, user): value for (day, user), value in kept.items() if user != 1}
    agree(0, 12)
    tables.remove_before(NOON + 3 * MICROS_PER_DAY)
    kept = {(day, user): value for (day, user), value in kept.items() if day >= 3}
    agree(0, 12)
    checkpoint(store, tables)
    agree(2, 9)


KEPT_AGGREGATES = (
    Aggregate.COUNT,
    Aggregate.SUM,
    Aggregate.AVERAGE,
    Aggregate.MIN,
    Aggregate.MAX,
    Aggregate.FIRST,
    Aggregate.LAST,
    Aggregate.DISTINCT,
    Aggregate.DISTINCT_DAYS,
)


@pytest.mark.parametrize("aggregate", KEPT_AGGREGATES)
@pytest.mark.parametrize("number", [1.0, 0.25, 1e300])
def test_repeated_aggregate_follows_every_change(
    store: Store, tables: EventTables, monkeypatch: pytest.MonkeyPatch, aggregate: Aggregate, number: float
) -> None:
    """The days before the last are added up once and kept; whatever changes in them must show."""
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 8)
    held: list[EventRow] = []

    def add(*days_and_users: tuple[int, int]) -> None:
        rows = [
            row(
                user,
                NOON + day * MICROS_PER_DAY,
                1 + len(held) + index,
                _1=number * (day + 2 * user + 1),
                _2=str((day + user) % 4),
            )
            for index, (day, user) in enumerate(days_and_users)
        ]
        tables.add(rows)
        held.extend(rows)

    def check() -> None:
        for units in range(24):
            for of, low in ((1, units * number), (1, float(units)), (2, float(units))):
                step = ResolvedEventMatch(
                    selection=ANYTHING, aggregate=aggregate, of=of, intervals=(Interval(low),)
                )
                assert set(tables.match(0, step)) == brute.match(held, 0, step)

    # 1. Six days of five users each, in slices of their own.
    add(*((day, user) for day in range(6) for user in range(5)))
    checkpoint(store, tables)
    check()
    check()
    # 2. More on the last day, then late on an early one, in memory and then stored.
    add((5, 1), (0, 7))
    check()
    checkpoint(store, tables)
    check()
    # 3. A user goes, and another comes back with a single event.
    for user in (1, 3):
        tables.extract(0, user)
        held[:] = [row for row in held if row.user != user]
        check()
    add((2, 3))
    check()
    # 4. The parts with removed users are rewritten.
    checkpoint(store, tables)
    check()


def test_examined_rows_are_counted(store: Store, tables: EventTables) -> None:
    tables.add([row(user, sequence=user) for user in range(1_000)])
    read = Unshared()
    tables.match(0, counted(1.0), None, read)
    assert read.looked_at == 1_000
    tables.match(0, counted(1.0), BitMap([5]), read)
    assert read.looked_at == 1_001
    tables.match(0, counted(1.0, where=WhereAttribute(key=1, test=Equals(1.0))), None, read)
    assert read.looked_at == 2_001


def test_damage_anywhere_is_data_loss_and_never_a_smaller_number(tmp_path: Path) -> None:
    """Flips one byte of every stored value in turn."""
    store = Store.open(tmp_path, groups=1)
    tables = EventTables(store, 1, 1)
    tables.add([row(user, NOON + user, user, _1=float(user), _2="x", _3=True) for user in range(50)])
    checkpoint(store, tables)
    store.close()

    def extract_everything() -> None:
        store = Store.open(tmp_path)
        try:
            tables = EventTables(store, 1, 1)
            assert set(tables.users(0, ANYTHING)) == set(range(50))
            assert len(tables.extract(0, 3)[0].attributes) == 3
        finally:
            store.close()

    extract_everything()
    with lmdb.open(str(tmp_path / "index")) as raw, raw.begin() as txn:
        stored = {bytes(found): bytes(value) for found, value in txn.cursor() if found[0] >= 0x60}
    assert len(stored) == 1 + 1 + 7 + 1
    for damaged, value in stored.items():
        for broken in (value[:-1] + bytes([value[-1] ^ 1]), None):
            if broken is None and damaged[0] != Family.EVENT_COLUMN.code:
                continue
            _overwrite(tmp_path, damaged, broken)
            with pytest.raises(DataLoss) as lost:
                extract_everything()
            assert lost.value.metadata["key_family"].startswith("EVENT_")
            _overwrite(tmp_path, damaged, value)
    extract_everything()


def _overwrite(directory: Path, damaged: bytes, value: bytes | None) -> None:
    with lmdb.open(str(directory / "index")) as raw, raw.begin(write=True) as txn:
        if value is None:
            txn.delete(damaged)
        else:
            txn.put(damaged, value)


def test_accounts_and_groups_are_separate(store: Store, new_account: NewAccount) -> None:
    first, second = (EventTables(store, new_account(), 2) for _ in range(2))
    first.add([row(1), EventRow(1, 2, 1, 1, EventType.CUSTOM, NOON, 2, {})])
    second.add([row(3)])
    checkpoint(store, first)
    checkpoint(store, second)
    assert [set(first.users(group, ANYTHING)) for group in (0, 1)] == [{1}, {2}]
    assert [set(second.users(group, ANYTHING)) for group in (0, 1)] == [{3}, set()]


def test_empty_selection_matches_no_users(tables: EventTables) -> None:
    tables.add([row(1)])
    every = (ALL_NUMBERS,)
    for selection in (ResolvedSelection(inputs=()), ResolvedSelection(inputs=(1,), name=-1)):
        assert not tables.match(0, ResolvedEventMatch(selection=selection, intervals=every))
        assert not tables.match_sequence(0, ResolvedSequence(steps=(ANYTHING, selection)))
    assert not tables.match(0, ResolvedEventMatch(selection=ANYTHING, intervals=()))
    assert not tables.match(0, ResolvedEventMatch(selection=ANYTHING, intervals=every), BitMap())


def test_rows_are_buffered_as_objects_up_to_a_limit_and_stay_visible(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module, "PENDING_ROWS_MAX", 10)
    packed: list[int] = []
    pack = table_module.Table.pack

    def counting(table: table_module.Table) -> None:
        assert table._buffered is not None
        packed.append(len(table._buffered.rows))
        pack(table)

    monkeypatch.setattr(table_module.Table, "pack", counting)
    tables = EventTables(store, new_account(), 1)
    for batch in range(7):
        tables.add([row(user, NOON + batch, batch * 4 + user, _1=float(batch)) for user in range(4)])
    assert packed == [12, 12]
    assert set(tables.match(0, counted(7.0))) == {0, 1, 2, 3}
    assert set(tables.match(0, counted(8.0))) == set()
    checkpoint(store, tables)
    assert tables.row_count() == 28
