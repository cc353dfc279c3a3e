"""Compaction: checkpoints keep parts few within their allowance, and finish eventually."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.backends.local.events import ColumnCache, EventTables, compaction
from engine.backends.local.events import table as table_module
from engine.backends.local.events.model import EventRow, ResolvedSelection
from engine.backends.local.events.part import PartRecord
from engine.backends.local.events.table import slice_decoder
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.store import Store
from engine.criteria.model import EventType
from engine.values import MICROS_PER_DAY
from tests.engine.backends.local.events.checkpoints import settle, stage

FIRST_DAY = 20_480
DAYS = 30
NAMES = (1, 2, 3)
ROWS_A_CHECKPOINT = 90
"""A row for each day and name."""

NewAccount = Callable[[], int]


class History:
    """Days that are written again and again, a row a day and name in each checkpoint."""

    def __init__(self, store: Store, account: int, cache: ColumnCache | None = None) -> None:
        self.tables = EventTables(store, account, 1, cache)
        self._store = store
        self._account = account
        self._sequence = 0
        self._seen: set[tuple[int, int]] = set()

    def write(self, *days: int) -> None:
        """A row for each name on each of these days."""
        for name in NAMES:
            for day in days:
                self._sequence += 1
                time = (FIRST_DAY + day) * MICROS_PER_DAY + self._sequence
                row = EventRow(0, self._sequence % 50, 1, name, EventType.CUSTOM, time, self._sequence, {})
                self.tables.add([row])

    def checkpoint(self) -> int:
        """How many rows were written into parts."""
        with self._store.index.writing() as txn:
            stage(self.tables)
            self.tables.write(txn)
        parts = {(name, part.number): part for name, found in self.parts().items() for part in found}
        written = sum(part.rows for at, part in parts.items() if at not in self._seen)
        self._seen |= parts.keys()
        return written

    def parts(self) -> dict[int, list[PartRecord]]:
        """The stored parts of each name."""
        found: dict[int, list[PartRecord]] = {name: [] for name in NAMES}
        with self._store.index.reading() as txn:
            for name in NAMES:
                for _, stored in txn.scan(key(Family.EVENT_SLICE, self._account, 1, name)):
                    found[name] += slice_decoder.decode(stored).parts
        return found

    def part_count(self) -> int:
        return sum(map(len, self.parts().values()))

    def users(self) -> set[int]:
        return set(self.tables.users(0, ResolvedSelection(inputs=(1,))))


@pytest.fixture
def history(store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch) -> History:
    """Thirty days in slices of one, each in several parts."""
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 1)
    history = History(store, new_account())
    for _ in range(6):
        history.write(*range(DAYS))
        history.checkpoint()
    return history


def test_a_few_late_rows_do_not_rewrite_all_others(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_CHECKPOINT", 20)
    monkeypatch.setattr(compaction, "LATE_SHARE_MAX", 1)
    history.write(*range(DAYS - 1))
    # The last rewriting may exceed what is left, by at most one slice with its six parts.
    assert history.checkpoint() <= ROWS_A_CHECKPOINT + ROWS_A_CHECKPOINT + 6
    assert history.tables.needs_compaction
    history.write(3)
    assert history.checkpoint() <= 3 + 20 + 7


def test_idle_checkpoints_merge_postponed_parts(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_CHECKPOINT", 20)
    before, users = history.part_count(), history.users()
    history.write(DAYS)
    history.checkpoint()
    checkpoints = 0
    while history.tables.needs_compaction:
        assert history.checkpoint() <= 20 + 6
        checkpoints += 1
    assert checkpoints >= 5
    assert before >= 5 * DAYS * len(NAMES)
    # One for each day, and at most the unfinished last ones.
    assert all(len(parts) <= DAYS + 6 for parts in history.parts().values())
    assert history.tables.row_count() == 6 * ROWS_A_CHECKPOINT + len(NAMES)
    assert history.users() == users


def test_postponed_tables_are_rewritten_by_later_checkpoints(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_CHECKPOINT", 60)
    before = {name: len(parts) for name, parts in history.parts().items()}
    joined: list[int] = []
    for _ in range(8):
        history.write(DAYS)
        history.checkpoint()
        after = {name: len(parts) for name, parts in history.parts().items()}
        joined += [name for name in NAMES if after[name] < before[name] and name not in joined]
        before = after
    assert sorted(joined) == list(NAMES)


def test_parts_stay_few_with_any_allowance(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_CHECKPOINT", 0)
    monkeypatch.setattr(compaction.Allowance, "take", lambda *_: False)
    for _ in range(60):
        history.write(5, DAYS)
        history.checkpoint()
    assert (
        max(len(parts) for parts in history.parts().values()) <= 6 * DAYS + 2 * compaction.SLICE_PARTS_LIMIT
    )
    assert history.tables.row_count() == 6 * ROWS_A_CHECKPOINT + 60 * 2 * len(NAMES)


def test_checkpoints_do_not_evict_columns_that_are_read(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 1)
    cache = ColumnCache()
    history = History(store, new_account(), cache)
    for _ in range(12):
        history.write(*range(DAYS))
        history.checkpoint()
    # Parts were written, read and merged without any query.
    settle(history.tables)
    assert cache.nbytes == 0


@pytest.mark.parametrize("was_read", [False, True])
def test_new_parts_of_tables_that_are_read_stay_cached(
    store: Store, new_account: NewAccount, was_read: bool
) -> None:
    cache = ColumnCache()
    history = History(store, new_account(), cache)
    history.write(*range(DAYS))
    if was_read:
        assert history.users() == set(range(50))
    history.checkpoint()
    settle(history.tables)
    assert (cache.nbytes > 0) == was_read
