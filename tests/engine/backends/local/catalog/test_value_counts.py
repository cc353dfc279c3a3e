"""Counting values beside the writers: one state, whatever is written, checkpointed or closed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.backends.base import Record, UserRecord, ValueCount
from engine.backends.local.backend import LocalBackend
from engine.backends.local.catalog import value_counts
from engine.backends.local.catalog.value_counts import ValueCounts
from engine.backends.local.settings import LocalSettings
from engine.errors import DeadlineExceeded, StoreUnavailable
from engine.values import Value

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
    opened = LocalBackend.open(tmp_path / "store", settings=LocalSettings(checkpoint_seconds=3_600.0))
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


def before_counting(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Lets something happen once a state was taken and before it is counted."""
    original = ValueCounts.top

    def top(counts: ValueCounts, prefix: str, after: ValueCount | None, limit: int) -> list[ValueCount]:
        monkeypatch.setattr(ValueCounts, "top", original)
        happens()
        return original(counts, prefix, after, limit)

    monkeypatch.setattr(ValueCounts, "top", top)


@pytest.mark.parametrize("stored", [0, 4, 7])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_what_is_written_meanwhile_is_not_counted(
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

    before_counting(monkeypatch, happens)
    assert counted(backend) == COUNTS
    assert counted(backend)[:2] == (ValueCount("gold", 3), ValueCount(LONG, 1))


def test_a_checkpoint_that_has_committed_but_is_not_settled(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, ["silver"] * len(BEFORE), TIME)
    backend.checkpoint()
    write(backend, BEFORE, TIME + 1)
    found: list[tuple[ValueCount, ...]] = []
    state = backend._state
    commit = state.commit

    def ask_first() -> None:
        found.append(counted(backend))
        commit()

    monkeypatch.setattr(state, "commit", ask_first)
    backend.checkpoint()
    assert found == [COUNTS]


def test_closing_ends_a_count_and_waits_for_its_end(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(value_counts, "VALUES_PER_CHECK", 1)
    write(backend, BEFORE, TIME)
    closer = threading.Thread(target=backend.close)
    closing = threading.Event()
    close = backend._catalogs.close

    def tell() -> None:
        close()
        closing.set()

    monkeypatch.setattr(backend._catalogs, "close", tell)

    def happens() -> None:
        closer.start()
        assert closing.wait(60)

    before_counting(monkeypatch, happens)
    with pytest.raises(StoreUnavailable):
        counted(backend)
    closer.join(60)
    assert not closer.is_alive()


def test_waiting_for_another_count_ends_at_the_deadline(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, BEFORE, TIME)
    refused: list[BaseException] = []

    def ask() -> None:
        try:
            counted(backend, deadline=0.0)
        except DeadlineExceeded as error:
            refused.append(error)

    def happens() -> None:
        other = threading.Thread(target=ask)
        other.start()
        other.join(60)

    before_counting(monkeypatch, happens)
    assert counted(backend) == COUNTS
    assert len(refused) == 1
