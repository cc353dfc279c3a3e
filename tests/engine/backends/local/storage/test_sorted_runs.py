"""Sorted runs: items are found by key across blocks and runs until they are removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.backends.local.storage import sorted_runs as module
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.sorted_runs import Items, Keys, Runs
from engine.backends.local.storage.transactions import WriteBuffer
from engine.backends.local.storage.user_ref import USER_REF_BITS
from engine.backends.local.users.id_index import USER_RUNS


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Environment]:
    """Blocks hold three items."""
    monkeypatch.setattr(module, "BLOCK_BYTES", 3 * USER_RUNS.items.itemsize)
    environment = Environment(tmp_path / "index", map_bytes=1 << 30)
    yield environment
    environment.close()


def items_of(*rows: tuple[int, int, int]) -> Items:
    """Items of a first part, the key's share of the second, and a payload."""
    return np.array([(high, tag << USER_REF_BITS | payload) for high, tag, payload in rows], USER_RUNS.items)


def checkpoint(runs: Runs, index: Environment, *rows: tuple[int, int, int]) -> None:
    with index.writing() as txn:
        runs.stage_new(txn, items_of(*rows))
    runs.commit()


def remove(runs: Runs, index: Environment, *rows: tuple[int, int, int]) -> None:
    with index.writing() as txn:
        runs.stage_removal(txn, items_of(*rows))
    runs.commit()


def found(runs: Runs, *rows: tuple[int, int]) -> set[tuple[int, int, int]]:
    keys: Keys = np.array([(high, tag << USER_REF_BITS) for high, tag in rows], np.uint64)
    at, lows = runs.find(keys)
    return {(*rows[row], int(low) & ((1 << USER_REF_BITS) - 1)) for row, low in zip(at, lows, strict=True)}


def test_equal_first_parts_are_distinguished_across_blocks(index: Environment) -> None:
    runs = Runs(index, USER_RUNS, (1,))
    rows = [(5, tag, 100 + tag) for tag in range(10)]
    checkpoint(runs, index, (1, 0, 1), *rows, (9, 0, 2))
    for opened in (runs, Runs(index, USER_RUNS, (1,))):
        assert found(opened, *((5, tag) for tag in range(12)), (9, 0), (1, 0)) == {
            *rows,
            (9, 0, 2),
            (1, 0, 1),
        }
        assert found(opened, (1, 1), (5, 10), (9, 1), (4, 0), (10, 0), (0, 0)) == set()
    assert found(Runs(index, USER_RUNS, (2,)), (5, 0)) == set()


def test_removal_matches_the_payload(index: Environment) -> None:
    runs = Runs(index, USER_RUNS, (1,))
    checkpoint(runs, index, *((high, 0, high) for high in range(1, 9)))
    checkpoint(runs, index, (4, 0, 40), (20, 0, 20))
    remove(runs, index, (4, 0, 4), (7, 0, 7), (8, 0, 8), (20, 0, 21), (30, 0, 30))
    for opened in (runs, Runs(index, USER_RUNS, (1,))):
        assert found(opened, *((high, 0) for high in range(40))) == {
            *((high, 0, high) for high in (1, 2, 3, 5, 6, 20)),
            (4, 0, 40),
        }
        # The last block has lost both of its items.
        assert [run.record.count for run in opened.all] == [5, 2]
        assert opened.all[0].record.fences == [1, 5, 7]


def test_an_empty_run_is_deleted(index: Environment) -> None:
    runs = Runs(index, USER_RUNS, (1,))
    rows = [(high, 0, high) for high in range(7)]
    checkpoint(runs, index, *rows)
    checkpoint(runs, index, (8, 0, 8))
    remove(runs, index, *rows)
    for opened in (runs, Runs(index, USER_RUNS, (1,))):
        assert found(opened, *((high, 0) for high in range(9))) == {(8, 0, 8)}
        assert [run.record.count for run in opened.all] == [1]
    with index.reading() as txn:
        assert len(list(txn.keys(key(Family.USER_BLOCK)))) == 1


def test_staged_changes_wait_for_the_commit(index: Environment) -> None:
    runs = Runs(index, USER_RUNS, (1,))
    checkpoint(runs, index, (1, 0, 1), (2, 0, 2))
    runs.stage_new(WriteBuffer(), items_of((3, 0, 3)))
    runs.stage_removal(WriteBuffer(), items_of((1, 0, 1)))
    runs.stage_drop(WriteBuffer(), runs.all[0])
    runs.rollback()
    runs.commit()
    assert found(runs, (1, 0), (2, 0), (3, 0)) == {(1, 0, 1), (2, 0, 2)}


def test_merged_run_contains_all_items(index: Environment) -> None:
    runs = Runs(index, USER_RUNS, (1,))
    for number in range(8):
        checkpoint(runs, index, *((high, number, high) for high in range(number, number + 5)))
    remove(runs, index, (3, 3, 3))
    mergeable = runs.mergeable()
    assert len(mergeable) == 8
    merged = runs.merge(mergeable)
    runs.merged(mergeable, merged)
    runs.discard(mergeable)
    expected = {(high, number, high) for number in range(8) for high in range(number, number + 5)}
    asked = [(high, number) for number in range(9) for high in range(12)]
    for opened in (runs, Runs(index, USER_RUNS, (1,))):
        assert len(opened.all) == 1
        assert found(opened, *asked) == expected - {(3, 3, 3)}
    with index.reading() as txn:
        assert len(list(txn.keys(key(Family.USER_BLOCK)))) == 39 // 3


def test_a_missing_filter_excludes_nothing_and_is_logged(
    index: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint(Runs(index, USER_RUNS, (1,)), index, (1, 0, 1))
    with index.writing() as txn:
        assert txn.delete(key(Family.USER_FILTER, 1, 1))
    runs = Runs(index, USER_RUNS, (1,))
    assert found(runs, (1, 0), (2, 0)) == {(1, 0, 1)}
    assert "USER_FILTER" in caplog.text
