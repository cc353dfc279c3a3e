"""The events of many names are removed in steps: others write between two of them and read within each. The
steps together remove what one removal does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from engine.backends.base import NameSpan
from engine.backends.local import backend as backend_module
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.values import MICROS_PER_DAY
from tests.conformance.site import ACCOUNT, NOON, event
from tests.stores import crash_image

SEED = 20261201
GROUPS = 4
NAMES = 60
AT_ONCE = 8
"""Tables of one removal: two or three names."""
SETTINGS = LocalSettings(groups=GROUPS, checkpoint_s=3_600.0)
Counts = Mapping[str, tuple[int, int]]


@pytest.fixture(autouse=True)
def in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "TABLES_REMOVED_AT_ONCE", AT_ONCE)


def fill(backend: LocalBackend) -> set[str]:
    """Returns the names that have old events: half of them."""
    source = random.Random(SEED)
    events = [
        event(f"u{source.randrange(30)}", f"n{name}", time=NOON - source.choice((0, 9)) * MICROS_PER_DAY)
        for name in range(NAMES)
        for _ in range(source.choice((1, 12)))
    ]
    source.shuffle(events)
    half = len(events) // 2
    backend.append(ACCOUNT, events[:half])
    backend.checkpoint()
    backend.append(ACCOUNT, events[half:])
    return {each.name for each in events if each.time < NOON}


def left(backend: LocalBackend) -> Counts:
    """The number of events of each name, and the age of the oldest in days."""
    return {
        found.name: (found.events, (NOON - found.first_time) // MICROS_PER_DAY)
        for found in backend.event_names(ACCOUNT, limit=NAMES + 1)
    }


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    yield opened
    opened.close()


def test_steps_have_few_tables_and_every_name_once(backend: LocalBackend) -> None:
    names = fill(backend)
    spans = list(backend.events_before(ACCOUNT, NOON))
    assert NAMES * GROUPS / AT_ONCE / 8 < len(spans) < NAMES
    assert all(one.end <= two.first for one, two in itertools.pairwise(spans))
    removed: set[str] = set()
    for span in spans:
        before = left(backend)
        revision = backend.remove_events(ACCOUNT, NOON, span)
        assert revision == backend.revision()
        after = left(backend)
        changed = {name for name, counts in before.items() if after.get(name) != counts}
        assert 1 <= len(changed) <= AT_ONCE
        assert changed <= names - removed
        removed |= changed
    assert removed == names
    assert not any(age for _, age in left(backend).values())
    assert list(backend.events_before(ACCOUNT, NOON)) == []


@pytest.mark.parametrize("then", ["go on", "checkpoint", "crash"])
def test_steps_remove_what_one_removal_does(backend: LocalBackend, tmp_path: Path, then: str) -> None:
    fill(backend)
    other = LocalBackend.open(tmp_path / "other", settings=SETTINGS)
    fill(other)
    other.remove_events(ACCOUNT, NOON)
    expected = left(other)
    other.close()
    spans = list(backend.events_before(ACCOUNT, NOON))
    for number, span in enumerate(spans):
        backend.remove_events(ACCOUNT, NOON, span)
        if number == len(spans) // 2:
            if then == "checkpoint":
                backend.checkpoint()
            elif then == "crash":
                image = crash_image(tmp_path / "store", tmp_path / "image")
                with_crash = LocalBackend.open(image, settings=SETTINGS)
                assert left(with_crash) == left(backend)
                for rest in list(with_crash.events_before(ACCOUNT, NOON)):
                    with_crash.remove_events(ACCOUNT, NOON, rest)
                assert left(with_crash) == expected
                with_crash.close()
    assert left(backend) == expected


def test_lock_is_yielded_after_each_table(backend: LocalBackend) -> None:
    fill(backend)
    span, *_ = backend.events_before(ACCOUNT, NOON)
    yielded = 0

    def yield_lock() -> None:
        nonlocal yielded
        yielded += 1

    with backend._locked():
        account = backend._state.find_account(ACCOUNT)
        assert account is not None
        removed = account.tables.remove_before(NOON, span, yield_lock)
    assert AT_ONCE <= len(removed) <= yielded < AT_ONCE + 3 * GROUPS


def test_names_of_other_spans_stay(backend: LocalBackend) -> None:
    fill(backend)
    before = left(backend)
    backend.remove_events(ACCOUNT, NOON, NameSpan(NAMES + 10, NAMES + 20))
    assert left(backend) == before
