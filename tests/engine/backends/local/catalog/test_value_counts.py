"""Counting values beside writers: one consistent state, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.backends.base import Record, UserRecord, ValueCount
from engine.backends.local.backend import LocalBackend
from engine.backends.local.catalog import value_counts
from engine.backends.local.catalog.value_counts import ValueCounts
from engine.backends.local.settings import LocalSettings
from engine.values import Value
from tests.engine.backends.local.catalog.while_counting import (
    before_counting,
    expect_that_closing_stops_a_count,
    expect_that_others_wait,
)

ACCOUNT = "accounts/acme"
WORKSPACE = f"{ACCOUNT}/workspaces/shop"
TIME = 1_700_000_000_000_000
LONG = "long " * 60
BEFORE: list[Value] = ["gold", "gold", LONG, ("gold", LONG), 1.0, True, TIME]
COUNTS = (
    ValueCount("gold", 3),
    ValueCount(LONG, 2),
    ValueCount(1.0, 1),
    ValueCount(True, 1),
    ValueCount(TIME, 1),
)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=LocalSettings(checkpoint_s=3_600.0))
    yield opened
    opened.close()


def write(backend: LocalBackend, values: list[Value], time: int) -> None:
    records: list[Record] = [
        UserRecord(f"user-{at}", f"{WORKSPACE}/inputs/web", time, {"plan": value})
        for at, value in enumerate(values)
    ]
    backend.append(ACCOUNT, records)


def counted(backend: LocalBackend, deadline: float | None = None) -> tuple[ValueCount, ...]:
    return backend.attribute_values(ACCOUNT, WORKSPACE, "plan", limit=10, deadline=deadline)


@pytest.mark.parametrize("stored", [0, 4, 7])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_concurrent_writes_are_not_counted(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, stored: int, checkpoints: bool
) -> None:
    """`stored` of the users' values are in the index, the others in memory only."""
    write(backend, BEFORE[:stored], TIME)
    backend.checkpoint()
    write(backend, BEFORE, TIME)

    def happens() -> None:
        write(backend, ["silver", LONG, "gold", "gold", "gold", False, 2.0], TIME + 1)
        if checkpoints:
            backend.checkpoint()

    before_counting(monkeypatch, ValueCounts, happens)
    assert counted(backend) == COUNTS
    assert counted(backend)[:2] == (ValueCount("gold", 3), ValueCount(LONG, 1))


def test_count_during_a_committed_unsettled_checkpoint(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, ["silver"] * len(BEFORE), TIME)
    backend.checkpoint()
    write(backend, BEFORE, TIME + 1)
    found: list[tuple[ValueCount, ...]] = []
    state = backend._state
    commit = state.commit

    def ask_first(pause: Callable[[], None]) -> None:
        found.append(counted(backend))
        commit(pause)

    monkeypatch.setattr(state, "commit", ask_first)
    backend.checkpoint()
    assert found == [COUNTS]


def test_closing_stops_a_count_and_waits_for_it(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_counts, "VALUES_PER_CHECK", 1)
    write(backend, BEFORE, TIME)
    expect_that_closing_stops_a_count(backend, monkeypatch, ValueCounts, partial(counted, backend))


def test_waiting_for_another_count_ends_at_the_deadline(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, BEFORE, TIME)
    assert expect_that_others_wait(monkeypatch, ValueCounts, partial(counted, backend)) == COUNTS
