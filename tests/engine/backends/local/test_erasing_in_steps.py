"""Erasing many users lets others read in between, and no answer has a user without some of its data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Count, Members
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.write.state import ERASED_AT_ONCE
from engine.criteria.model import Exists
from engine.plan.model import AttributeMatch, Difference, EventMatch, EventSelection, Interval, Universe
from tests.conformance.as_columns import columns_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, SHOP, WEB, event, plan_of, update

USERS = 90
WAIT_S = 60.0
"""A guard against waiting for ever."""
NAMES = ("buy", "visit", "call")
EVERYBODY = Universe(inputs=(WEB,))
BUYERS = plan_of(EVERYBODY)
INCOMPLETE = [
    plan_of(
        EVERYBODY,
        EventMatch(selection=EventSelection(inputs=(WEB,), name=name), intervals=(Interval(low=2.0),)),
        Difference(minuend=0, subtrahend=1),
    )
    for name in NAMES
] + [
    plan_of(
        EVERYBODY,
        AttributeMatch(workspaces=(SHOP,), key="v", test=Exists()),
        Difference(minuend=0, subtrahend=1),
    )
]


class Reader:
    """Looks at the store whenever the lock is free."""

    def __init__(self, backend: LocalBackend) -> None:
        self._backend = backend
        self._is_looking = False
        self.sizes: list[int] = []

    def look(self) -> None:
        """What everybody else may see now."""
        if self._is_looking:
            return
        self._is_looking = True
        for plan in INCOMPLETE:
            assert self._backend.execute(plan, Count()).sizes == (0,)
        everybody = self._backend.execute(BUYERS, Members(limit=USERS)).user_ids
        assert self._backend.stored_members(AUDIENCE, Members(limit=USERS)).user_ids == everybody
        assert all(self._backend.profile(ACCOUNT, user_id) is not None for user_id in everybody)
        self.sizes.append(len(everybody))
        self._is_looking = False


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    users = [f"user-{number}" for number in range(USERS)]
    for _ in range(2):
        opened.append_columns(ACCOUNT, columns_of([event(user, name) for user in users for name in NAMES]))
        opened.checkpoint()
    # Events that are not in the index yet, in both forms.
    opened.append(ACCOUNT, [event(user, NAMES[0]) for user in users])
    opened.append_columns(ACCOUNT, columns_of([event(user, NAMES[1]) for user in users]))
    opened.append(ACCOUNT, [update(user, v=1.0) for user in users])
    opened.alias(ACCOUNT, "other", "user-7")
    opened.refresh(ACCOUNT, JOURNEY, [AUDIENCE], BUYERS)
    yield opened
    opened.close()


def test_users_leave_one_after_the_other_and_whole(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(backend)
    look_when_free(backend, reader.look, monkeypatch)
    gone = [f"user-{number}" for number in range(60)]
    assert backend.erase(ACCOUNT, [*gone, "other", "nobody", gone[0]]).accepted == len(gone)
    assert reader.sizes[0] == USERS
    assert reader.sizes[-1] == USERS - len(gone)
    steps = [before - after for before, after in zip(reader.sizes, reader.sizes[1:], strict=False)]
    assert max(steps) == ERASED_AT_ONCE
    assert min(steps) == 0
    exits = backend.changes(AUDIENCE, USERS, 2 * USERS).changes
    assert {change.user_id for change in exits} == set(gone)
    assert len(exits) == len(gone)
    assert backend.stats().events == (USERS - len(gone)) * (2 * len(NAMES) + 2)
    assert backend.profile(ACCOUNT, "other") is None


def look_when_free(backend: LocalBackend, look: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls `look` before each hold of the state lock by a write, and where it yields."""
    state = backend._state
    locked = state.locked

    @contextmanager
    def looking_first(*args: Any) -> Iterator[None]:
        if state._lock._owner is None:
            look()
        with locked(*args):
            yield

    monkeypatch.setattr(state, "locked", looking_first)
    monkeypatch.setattr(state._lock, "yield_lock", look)


def test_concurrent_calls_share_a_checkpoint(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints: list[int] = []
    write_state = LocalBackend._write_state

    def counting(self: LocalBackend) -> Any:
        checkpoints.append(self.revision())
        return write_state(self)

    monkeypatch.setattr(LocalBackend, "_write_state", counting)
    calls = [
        threading.Thread(target=backend.erase, args=(ACCOUNT, [f"user-{number}"])) for number in range(8)
    ]
    before = backend.revision()
    with backend._checkpoint_lock:
        for call in calls:
            call.start()
        backend._state.wait_for(before + len(calls), time.monotonic() + WAIT_S)
    for call in calls:
        call.join()
    assert checkpoints == [before + len(calls)]
    assert backend._log.trimmed == before + len(calls)
