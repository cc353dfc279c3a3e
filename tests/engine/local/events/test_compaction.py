"""What folds rewrite so that parts stay few: as much at once as they may, and all of it in the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.criteria.model import EventType
from engine.local.events import ColumnCache, EventTables, compaction
from engine.local.events import table as table_module
from engine.local.events.model import EventRow, ResolvedSelection
from engine.local.events.part import PartRecord
from engine.local.events.table import slice_decoder
from engine.local.keys import Family, key
from engine.local.storage.store import Store
from engine.values import MICROS_PER_DAY

FIRST_DAY = 20_480
DAYS = 30
NAMES = (1, 2, 3)
ROWS_A_FOLD = 90
"""A row for each day and name."""

NewAccount = Callable[[], int]


class History:
    """Days that are written again and again, a row a day and name in each fold."""

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

    def fold(self) -> int:
        """How many rows were written into parts."""
        with self._store.index.writing() as txn:
            self.tables.collect()
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
        history.fold()
    return history


def test_a_few_late_rows_do_not_have_all_others_rewritten(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_FOLD", 20)
    monkeypatch.setattr(compaction, "LATE_SHARE_MAX", 1)
    history.write(*range(DAYS - 1))
    # The last rewriting may exceed what is left, by at most one slice with its six parts.
    assert history.fold() <= ROWS_A_FOLD + ROWS_A_FOLD + 6
    assert history.tables.is_crowded
    history.write(3)
    assert history.fold() <= 3 + 20 + 7


def test_folds_with_nothing_new_join_what_had_to_wait(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_FOLD", 20)
    before, users = history.part_count(), history.users()
    history.write(DAYS)
    history.fold()
    folds = 0
    while history.tables.is_crowded:
        assert history.fold() <= 20 + 6
        folds += 1
    assert folds >= 5
    assert before >= 5 * DAYS * len(NAMES)
    # One for each day, and at most the unfinished last ones.
    assert all(len(parts) <= DAYS + 6 for parts in history.parts().values())
    assert history.tables.statistics().events == 6 * ROWS_A_FOLD + len(NAMES)
    assert history.users() == users


def test_every_table_has_its_turn(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_FOLD", 60)
    before = {name: len(parts) for name, parts in history.parts().items()}
    joined: list[int] = []
    for _ in range(8):
        history.write(DAYS)
        history.fold()
        after = {name: len(parts) for name, parts in history.parts().items()}
        joined += [name for name in NAMES if after[name] < before[name] and name not in joined]
        before = after
    assert sorted(joined) == list(NAMES)


def test_parts_stay_few_whatever_the_allowance(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROWS_PER_FOLD", 0)
    monkeypatch.setattr(compaction.Allowance, "take", lambda *_: False)
    for _ in range(60):
        history.write(5, DAYS)
        history.fold()
    assert (
        max(len(parts) for parts in history.parts().values()) <= 6 * DAYS + 2 * compaction.SLICE_PARTS_LIMIT
    )
    assert history.tables.statistics().events == 6 * ROWS_A_FOLD + 60 * 2 * len(NAMES)


def test_folds_leave_the_room_of_what_is_read_alone(
    store: Store, new_account: NewAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SLICE_ROWS_MAX", 1)
    cache = ColumnCache()
    history = History(store, new_account(), cache)
    for _ in range(12):
        history.write(*range(DAYS))
        history.fold()
    # Parts were written, read again and merged, and nobody has asked.
    history.tables.settle()
    assert cache.nbytes == 0


@pytest.mark.parametrize("was_read", [False, True])
def test_new_parts_of_what_is_read_stay_at_hand(
    store: Store, new_account: NewAccount, was_read: bool
) -> None:
    cache = ColumnCache()
    history = History(store, new_account(), cache)
    history.write(*range(DAYS))
    if was_read:
        assert history.users() == set(range(50))
    history.fold()
    history.tables.settle()
    assert (cache.nbytes > 0) == was_read
