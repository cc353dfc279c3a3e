"""The rows of a few users of a round, found once for all questions: wherever the rows are, beside a list."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from pyroaring import BitMap

from engine.backends.local.events import EventRow, EventTables, ResolvedSelection
from engine.backends.local.events import shared_rows as shared_module
from engine.backends.local.events import table as table_module
from engine.backends.local.events import tables as tables_module
from engine.backends.local.storage.store import Store
from engine.backends.local.storage.turns import Unshared
from engine.criteria.model import EventType
from engine.criteria.ranges import TimeRange
from engine.values import MICROS_PER_DAY
from tests.engine.backends.local.events.checkpoints import stage

GROUPS, USERS, DAYS = 3, 40, 30
STRIDE = 1_000
START = 20_500 * MICROS_PER_DAY


class World:
    """Event tables and the same rows as a list."""

    def __init__(self, store: Store, account: int, source: random.Random) -> None:
        self._store, self._source = store, source
        self._tables = EventTables(store, account, GROUPS)
        self._rows: list[EventRow] = []

    def send(self) -> None:
        new = [
            EventRow(
                self._source.randrange(GROUPS),
                self._source.randrange(USERS),
                1,
                self._source.randrange(1, 3),
                self._source.choice((EventType.CUSTOM, EventType.SCREEN_VIEW)),
                START + self._source.randrange(DAYS * MICROS_PER_DAY),
                len(self._rows) + number,
                {},
            )
            for number in range(self._source.choice((1, 3, 20)))
        ]
        self._tables.add(new)
        self._rows += new

    def checkpoint(self) -> None:
        with self._store.index.writing() as txn:
            stage(self._tables)
            self._tables.write(txn)

    def remove(self) -> None:
        group, user = self._source.randrange(GROUPS), self._source.randrange(USERS)
        self._tables.extract(group, user)
        self._rows = [row for row in self._rows if (row.group, row.user) != (group, user)]

    def read_all(self) -> None:
        """Puts everything that is buffered into parts."""
        self._tables.users(self._source.randrange(GROUPS), ResolvedSelection(inputs=(1,)))

    def check(self) -> None:
        start = START + self._source.randrange(DAYS * MICROS_PER_DAY)
        selection = ResolvedSelection(
            inputs=(1,),
            name=self._source.choice((None, 1, 2)),
            type=self._source.choice((None, EventType.SCREEN_VIEW)),
            time=TimeRange(self._source.choice((None, start)), None),
        )
        users = {
            group: BitMap(self._source.sample(range(USERS), self._source.choice((1, 5, 30))))
            for group in self._source.sample(range(GROUPS), self._source.randint(1, GROUPS))
        }
        found = self._tables.rows_of_some(selection, users, STRIDE, Unshared())
        assert found is not None
        expected = [
            (row.group * STRIDE + row.user, row.time)
            for row in self._rows
            if row.user in users.get(row.group, ())
            and selection.name in (None, row.name_number)
            and selection.type in (None, row.type)
            and selection.time.holds(row.time)
        ]
        assert found.users.tolist() == sorted(user for user, _ in expected)
        assert sorted(zip(found.users.tolist(), found.times.tolist(), strict=True)) == sorted(expected)


@pytest.mark.parametrize("unpacked", [0, 10, 1_000])
@pytest.mark.parametrize("read", [0, 1 << 16])
def test_rows_of_some_equal_a_list(
    store: Store,
    new_account: Callable[[], int],
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    unpacked: int,
    read: int,
) -> None:
    """Buffered, in fresh parts, stored, and removed; with the lock held, and where that would take long."""
    source = random.Random(f"{pytestconfig.getoption('--hypothesis-seed')} {unpacked} {read}")
    monkeypatch.setattr(table_module, "UNPACKED_ROWS_MAX", unpacked)
    monkeypatch.setattr(tables_module, "SHARED_ROWS_READ_MAX", read)
    world = World(store, new_account(), source)
    for _ in range(120):
        step = source.choice([world.send] * 6 + [world.checkpoint, world.remove, world.read_all])
        step()
        world.check()


def test_many_rows_are_told_apart_from_few(
    store: Store, new_account: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of others do not count, although a small part is read as a whole."""
    monkeypatch.setattr(shared_module, "SHARED_ROWS_MAX", 10)
    tables = EventTables(store, new_account(), 1)
    tables.add([EventRow(0, user, 1, 1, EventType.CUSTOM, START, user, {}) for user in range(30)])
    selection = ResolvedSelection(inputs=(1,))
    few = tables.rows_of_some(selection, {0: BitMap(range(10))}, STRIDE, Unshared())
    assert few is not None
    assert few.users.tolist() == list(range(10))
    assert tables.rows_of_some(selection, {0: BitMap(range(11))}, STRIDE, Unshared()) is None
    tables.users(0, selection)
    few = tables.rows_of_some(selection, {0: BitMap(range(10))}, STRIDE, Unshared())
    assert few is not None
    assert tables.rows_of_some(selection, {0: BitMap(range(11))}, STRIDE, Unshared()) is None
