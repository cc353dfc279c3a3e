"""Counting values of events beside writers, in bounded memory: one consistent state, whatever happens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from engine.backends.base import EventRecord, ValueCount
from engine.backends.local.backend import LocalBackend
from engine.backends.local.catalog import event_values
from engine.backends.local.catalog.event_values import EventValueCounts
from engine.backends.local.settings import LocalSettings
from engine.criteria.model import EventType
from engine.values import MICROS_PER_DAY, Value
from tests.engine.backends.local.catalog.while_counting import (
    before_counting,
    expect_that_closing_stops_a_count,
    expect_that_others_wait,
)

ACCOUNT = "accounts/acme"
INPUT = f"{ACCOUNT}/workspaces/shop/inputs/web"
TIME = 1_700_000_000_000_000
BEFORE: list[Value] = ["gold", "gold", ("gold", "x"), 1.0, True, TIME]
COUNTS = tuple(
    ValueCount(value, events=events)
    for value, events in (("gold", 3), ("x", 1), (1.0, 1), (True, 1), (TIME, 1))
)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    yield opened
    opened.close()


def write(backend: LocalBackend, values: list[Value], time: int = TIME) -> None:
    backend.append(
        ACCOUNT,
        [
            EventRecord(
                f"user-{at}", INPUT, "buy", EventType.CUSTOM, time - at % 3 * MICROS_PER_DAY, {"v": value}
            )
            for at, value in enumerate(values)
        ],
    )


def counted(
    backend: LocalBackend,
    *,
    prefix: str = "",
    after: ValueCount | None = None,
    limit: int = 10,
    deadline: float | None = None,
) -> tuple[ValueCount, ...]:
    return backend.event_attribute_values(
        ACCOUNT, "buy", "v", prefix=prefix, after=after, limit=limit, deadline=deadline
    )


@pytest.mark.parametrize("stored", [0, 4, 6])
@pytest.mark.parametrize("checkpoints", [0, 1, 3])
def test_concurrent_writes_are_not_counted(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, stored: int, checkpoints: int
) -> None:
    """`stored` of the events are in the index, the others in memory only."""
    write(backend, BEFORE[:stored])
    backend.checkpoint()
    write(backend, [*["other"] * stored, *BEFORE[stored:]])
    backend.erase(ACCOUNT, ["nobody"])

    def happens() -> None:
        backend.erase(ACCOUNT, ["user-0", "user-3"])
        backend.remove_events(ACCOUNT, TIME)
        for _ in range(checkpoints):
            write(backend, ["silver", "gold", 2.0])
            backend.checkpoint()

    before_counting(monkeypatch, EventValueCounts, happens)
    others = (ValueCount("other", events=stored),) if stored else ()
    expected = sorted((*COUNTS, *others), key=lambda count: -count.events)
    found = counted(backend)
    assert sorted(found, key=repr) == sorted(expected, key=repr)
    assert [count.events for count in found] == [count.events for count in expected]
    assert counted(backend) != found


def test_count_during_a_committed_unsettled_checkpoint(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, BEFORE[:2])
    backend.checkpoint()
    write(backend, [*["z"] * 2, *BEFORE[2:]])
    backend.remove_events(ACCOUNT, 0)
    found: list[tuple[ValueCount, ...]] = []
    state = backend._state
    commit = state.commit

    def ask_first(pause: Callable[[], None]) -> None:
        found.append(counted(backend))
        commit(pause)

    monkeypatch.setattr(state, "commit", ask_first)
    backend.checkpoint()
    assert found == [(COUNTS[0], ValueCount("z", events=2), *COUNTS[1:])]
    assert counted(backend) == found[0]


@pytest.mark.parametrize("bytes_max", [1, 400, 2_000, 1 << 20])
def test_values_are_counted_in_bounded_memory(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, bytes_max: int
) -> None:
    """Values that take more memory are counted in several passes, each within the bound."""
    monkeypatch.setattr(event_values, "COUNTED_BYTES_MAX", bytes_max)
    passes: list[int] = []
    count = EventValueCounts._counted

    def counting(*arguments: object) -> tuple[dict[object, int], object]:
        found, end = count(*arguments)  # type: ignore[arg-type]
        passes.append(len(found))
        return found, end

    monkeypatch.setattr(EventValueCounts, "_counted", counting)
    source = random.Random(bytes_max)
    pool: list[Value] = [
        *(f"v{n}" for n in range(60)),
        *(float(n) for n in range(40)),
        TIME,
        TIME + 1,
        True,
        ("v1", "v2"),
    ]
    values = [source.choice(pool) for _ in range(400)]
    write(backend, values[:250])
    backend.checkpoint()
    write(backend, values[250:])
    expected: Counter[tuple[int, Value]] = Counter()
    for value in values:
        for single in value if isinstance(value, tuple) else (value,):
            kind = {str: 1, float: 2, bool: 3, int: 4}[type(single)]
            expected[kind, single] += 1
    order = sorted(expected, key=lambda key: (-expected[key], *key))
    found: list[ValueCount] = []
    while page := counted(backend, after=found[-1] if found else None, limit=7):
        found += page
    assert [(count.value, count.events) for count in found] == [
        (value, expected[kind, value]) for kind, value in order
    ]
    assert (max(passes) > 50) == (bytes_max == 1 << 20)
    assert max(passes) * event_values.VALUE_BYTES <= max(bytes_max, 2 * event_values.VALUE_BYTES)
    starting = [
        (value, events)
        for kind, value in order
        if (events := expected[kind, value]) and str(value).startswith("v5")
    ]
    assert [(count.value, count.events) for count in counted(backend, prefix="v5", limit=99)] == starting


def test_closing_stops_a_count_and_waits_for_it(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, BEFORE)
    expect_that_closing_stops_a_count(backend, monkeypatch, EventValueCounts, partial(counted, backend))


def test_only_one_count_runs_and_others_wait_until_their_deadline(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(backend, BEFORE)
    # A writer does not wait for the count.
    more = partial(write, backend, ["silver"])
    assert expect_that_others_wait(monkeypatch, EventValueCounts, partial(counted, backend), more) == COUNTS
