"""Erasing many users lets others read in between, and no answer has a user without some of its data."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Appended, Count, Members, Record
from engine.backends.local.backend import LocalBackend
from engine.backends.local.roles import writing
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.write_ahead_log import AppendEntry, EraseEntry, LogEntry
from engine.backends.local.write.state import ERASED_AT_ONCE
from engine.criteria.model import Exists
from engine.errors import LimitExceeded
from engine.plan.model import AttributeMatch, Difference, EventMatch, EventSelection, Interval, Universe
from tests.conformance.as_columns import columns_of
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, SHOP, WEB, event, plan_of, update
from tests.harness import eventually

USERS = 90
OTHER = "accounts/other"
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


def entries_of(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> list[LogEntry]:
    """What is applied from now on."""
    applied: list[LogEntry] = []
    apply = backend._state.apply

    def noting(position: int, entry: LogEntry) -> tuple[Appended, ...]:
        applied.append(entry)
        return apply(position, entry)

    monkeypatch.setattr(backend._state, "apply", noting)
    return applied


def test_many_users_are_erased_by_several_entries(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ERASED_PER_ENTRY", 7)
    applied = entries_of(backend, monkeypatch)
    before = backend.revision()
    gone = [f"user-{number}" for number in range(60)]
    erased = backend.erase(ACCOUNT, [*gone, "other", "nobody", gone[0]])
    assert erased.accepted == len(gone)
    assert erased.revision == before + len(applied) == backend.revision()
    pieces = [entry.user_ids for entry in applied if isinstance(entry, EraseEntry)]
    assert len(pieces) == len(applied)
    assert max(map(len, pieces)) == 7
    assert sorted(user_id for piece in pieces for user_id in piece) == sorted([*gone, "other", gone[0]])
    # Users of a group share tables: a piece has users of one group.
    groups = [set(backend._state._account(ACCOUNT).directory.by_group(piece)) for piece in pieces]
    assert all(len(group) == 1 for group in groups)
    exits = backend.changes(AUDIENCE, USERS, 2 * USERS).changes
    assert sorted(change.user_id for change in exits) == sorted(gone)
    assert backend._log.trimmed >= erased.revision


def test_an_erasure_that_failed_half_way_is_finished_by_the_next(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "ERASED_PER_ENTRY", 10)
    gone = [f"user-{number}" for number in range(60)]
    append, appended = backend._log.append, list[int]()

    def full_after_two(encoded: Sequence[bytes]) -> int:
        if len(appended) == 2:
            raise LimitExceeded("full", reason="STORE_FULL")
        appended.append(len(encoded))
        return append(encoded)

    with monkeypatch.context() as patch:
        patch.setattr(backend._writer, "logged_work_max", 1)
        patch.setattr(backend._log, "append", full_after_two)
        with pytest.raises(LimitExceeded):
            backend.erase(ACCOUNT, gone)
    left = backend.execute(BUYERS, Count()).sizes[0]
    assert left == USERS - 20
    assert backend.erase(ACCOUNT, gone).accepted == left - (USERS - len(gone))
    assert backend.execute(BUYERS, Count()).sizes == (USERS - len(gone),)
    assert backend.erase(ACCOUNT, gone).accepted == 0


def test_unknown_ids_are_neither_logged_nor_checkpointed(backend: LocalBackend) -> None:
    backend.checkpoint()
    backend.append(OTHER, [event("ada")])
    before, trimmed = backend.revision(), backend._log.trimmed
    assert backend.erase(ACCOUNT, [f"nobody-{number}" for number in range(2_000)]) == Appended(before, 0, 0)
    assert backend.erase("accounts/without-data", ["user-1"]) == Appended(before, 0, 0)
    assert (backend.revision(), backend._log.trimmed) == (before, trimmed)


def test_an_erasure_erases_what_came_before_and_is_not_applied_yet(backend: LocalBackend) -> None:
    """A caller that got no answer in time may erase what it sent."""
    calls = [
        threading.Thread(target=backend.append, args=(ACCOUNT, [event("late")])),
        threading.Thread(target=backend.erase, args=(ACCOUNT, ["late", "nobody"])),
    ]
    before = backend.revision()
    with backend._writer.paused():
        for number, call in enumerate(calls, 1):
            call.start()
            eventually(lambda: backend._writer._unapplied.get(ACCOUNT) == number)  # noqa: B023 (called at once)
    for call in calls:
        call.join()
    assert backend.revision() == before + 2
    assert backend.profile(ACCOUNT, "late") is None
    assert not backend._writer.has_unapplied(ACCOUNT)


def test_a_repeated_erasure_trims_what_the_first_has_left_in_the_log(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: LocalBackend, revision: int) -> None:
        raise LimitExceeded("full", reason="STORE_FULL")

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "_checkpoint_through", fails)
        with pytest.raises(LimitExceeded):
            backend.erase(ACCOUNT, ["user-1"])
    erased_at = backend.revision()
    assert backend._log.trimmed < erased_at
    assert backend.erase(ACCOUNT, ["user-1"]).accepted == 0
    assert backend._log.trimmed == erased_at


def test_ids_without_data_lose_their_aliases(backend: LocalBackend) -> None:
    """Of an id that is an alias, and of one that has one, though nobody has sent data."""
    for number, erased in enumerate(("from-0", "to-1")):
        backend.alias(ACCOUNT, f"from-{number}", f"to-{number}")
        assert backend.erase(ACCOUNT, [erased]).accepted == 0
        backend.append(ACCOUNT, [event(f"from-{number}")])
        profile = backend.profile(ACCOUNT, f"from-{number}")
        assert profile is not None
        assert profile.user_id == f"from-{number}"


def test_many_updates_are_several_entries_unless_they_are_one_request(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "USERS_PER_ENTRY", 20)
    applied = entries_of(backend, monkeypatch)
    updates = [update(f"new-{number}", v=float(number)) for number in range(50)]
    before = backend.revision()
    assert backend.append(ACCOUNT, updates) == Appended(before + 3, 50, 0)
    assert [len(entry.records) for entry in applied if isinstance(entry, AppendEntry)] == [20, 20, 10]
    assert backend.append(ACCOUNT, updates, request_id="once") == Appended(before + 4, 50, 0)
    assert backend.append(ACCOUNT, updates, request_id="once") == Appended(before + 4, 50, 0, repeated=True)
    # Events without ids would count twice after a failure half way.
    mixed: list[Record] = [*updates, event("new-1")]
    assert backend.append(ACCOUNT, mixed).revision == before + 6
    assert all(backend.profile(ACCOUNT, f"new-{number}") is not None for number in range(50))
