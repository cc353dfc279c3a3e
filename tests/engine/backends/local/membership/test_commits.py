"""Memberships are committed without the state lock: a commit waits for the disk, and nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import Members, MembershipStore, OptedIn, ScopeRefresh, UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.environment import Environment
from engine.criteria.model import Equals
from engine.errors import CursorExpired
from engine.plan.model import AttributeMatch, Plan
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, NOON, WEB
from tests.harness import eventually

SHOP = f"{ACCOUNT}/workspaces/shop"
COPY = f"{ACCOUNT}/connections/copy"
GOLD = Plan(
    account=ACCOUNT,
    as_of=NOON,
    steps=(AttributeMatch(workspaces=(SHOP,), key="plan", test=Equals("gold")),),
    roots=(0,),
)

READS = {
    "membership",
    "stored_members",
    "published",
    "changes",
    "sequence_at",
    "listen",
    "beginning",
    "look_ahead",
    "instant",
    "expected",
    "pending",
    "has_news",
    "take_news",
    "erased_through",
    "drop_scope",
}
"""What writes nothing to the disk."""


def update(user_id: str, plan: str) -> UserRecord:
    return UserRecord(user_id, WEB, NOON, {"plan": plan})


def round_of_two(backend: LocalBackend) -> None:
    backend.append(ACCOUNT, [update("cleo", "gold")])
    asked = ScopeRefresh(account=ACCOUNT, scope=JOURNEY, audiences=[AUDIENCE], plan=GOLD)
    backend.refresh_scopes(NOON, [asked])


def recorded_update(backend: LocalBackend) -> None:
    backend.opt_in(AUDIENCE, OptedIn(("tier",)))
    backend.append(ACCOUNT, [UserRecord("ada", WEB, NOON, {"tier": "high"})])
    backend.record_updates()


def refreshed(backend: LocalBackend) -> None:
    backend.append(ACCOUNT, [update("dora", "gold")])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)


def copied(backend: LocalBackend) -> None:
    # The second replaces the first.
    backend.copy_membership(AUDIENCE, COPY, 0)
    backend.copy_membership(AUDIENCE, COPY, 0)


WRITES: dict[str, Callable[[LocalBackend], object]] = {
    "refresh": refreshed,
    "refresh_scopes": round_of_two,
    "opt_in": lambda backend: backend.opt_in(AUDIENCE, OptedIn(("tier",))),
    "record_updates": recorded_update,
    "trim_changes": lambda backend: backend.trim_changes(AUDIENCE, 1),
    "exit_all": lambda backend: backend.exit_all(AUDIENCE, NOON),
    "copy_membership": copied,
    "drop_membership": lambda backend: backend.drop_membership(AUDIENCE),
}

OTHERS: dict[str, Callable[[LocalBackend], object]] = {
    "erase": lambda backend: backend.erase(ACCOUNT, ["ada"]),
    "alias": lambda backend: backend.alias(ACCOUNT, "ada", "bob"),
    "checkpoint": lambda backend: backend.checkpoint(),
}
"""What writes memberships too."""


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    found = LocalBackend.open(tmp_path, settings=LocalSettings(groups=2, checkpoint_s=3_600.0))
    found.append(ACCOUNT, [update("ada", "gold"), update("bob", "gold")])
    found.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    yield found
    found.close()


@pytest.fixture
def commits(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each commit to the index whether its thread has the state lock."""
    found: list[bool] = []
    inner: Any = backend
    index, lock, real = inner._store.index, inner._state._lock, Environment._writing

    @contextmanager
    def writing(self: Environment) -> Iterator[Any]:
        with real(self) as txn:
            yield txn
        if self is index:
            found.append(lock._owner == threading.get_ident())

    monkeypatch.setattr(Environment, "_writing", writing)
    return found


def test_every_method_that_writes_is_here() -> None:
    methods = {name for name in dir(MembershipStore) if not name.startswith("_")}
    assert methods == READS | WRITES.keys()


@pytest.mark.parametrize("name", [*WRITES, *OTHERS])
def test_nothing_is_committed_with_the_state_lock(
    backend: LocalBackend, commits: list[bool], name: str
) -> None:
    {**WRITES, **OTHERS}[name](backend)
    assert commits
    assert not any(commits)


@pytest.mark.parametrize("name", ["opt_in", "trim_changes", "exit_all", "copy_membership", "drop_membership"])
def test_what_cannot_be_committed_leaves_all_as_it_was(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = backend.membership(AUDIENCE)
    changes = backend.changes(AUDIENCE, 0, 9)

    def failing(self: Environment) -> Any:
        raise OSError("no disk")

    with monkeypatch.context() as patched:
        patched.setattr(Environment, "_writing", failing)
        with pytest.raises(OSError, match="no disk"):
            WRITES[name](backend)
    assert backend.membership(AUDIENCE) == before
    assert backend.membership(COPY) is None
    assert backend.changes(AUDIENCE, 0, 9) == changes
    assert set(backend.stored_members(AUDIENCE, Members()).user_ids) == {"ada", "bob"}
    assert backend.published(ACCOUNT).contains(AUDIENCE, "ada")
    # Once more, now that the disk is there.
    WRITES[name](backend)
    assert (backend.membership(AUDIENCE) is None) == (name == "drop_membership")


@pytest.mark.parametrize("name", [*WRITES, "checkpoint"])
def test_others_write_while_it_is_committed(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Opted-in values change, a user comes and one is erased, after the operation was collected."""
    backend.opt_in(AUDIENCE, OptedIn(("plan",)))
    backend.append(ACCOUNT, [update("eve", "gold")])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
    # It returns after a checkpoint, which waits for the operation.
    erasing = threading.Thread(target=backend.erase, args=(ACCOUNT, ["eve"]))
    inner: Any = backend
    index, real = inner._store.index, Environment._writing

    @contextmanager
    def writing(self: Environment) -> Iterator[Any]:
        if self is index and erasing.ident is None:
            backend.append(ACCOUNT, [update("ada", "gold"), update("fay", "gold")])
            erasing.start()
            eventually(lambda: backend.profile(ACCOUNT, "eve") is None)
        with real(self) as txn:
            yield txn

    with monkeypatch.context() as patched:
        patched.setattr(Environment, "_writing", writing)
        {**WRITES, **OTHERS}[name](backend)
        erasing.join()
    if name == "drop_membership":
        assert backend.membership(AUDIENCE) is None
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD, whole=name == "exit_all")
    members = set(backend.stored_members(AUDIENCE, Members()).user_ids)
    assert members >= {"ada", "bob", "fay"}
    assert "eve" not in members
    page = backend.changes(AUDIENCE, 1 if name == "trim_changes" else 0, 99)
    folded = {"ada", "bob"} if name == "trim_changes" else set[str]()
    for change in page.changes:
        if change.entered or change.updated:
            folded.add(change.user_id)
        else:
            folded.discard(change.user_id)
    assert folded == members


def test_readers_know_of_deleted_changes_before_they_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads between a commit and what it publishes reads all changes, or hears CursorExpired."""
    kept = 5
    settings = LocalSettings(groups=2, checkpoint_s=3_600.0, changes_retained_max=kept)
    backend = LocalBackend.open(tmp_path, settings=settings)
    inner: Any = backend
    index, real = inner._store.index, Environment._writing
    expired, read = [], []

    @contextmanager
    def writing(self: Environment) -> Iterator[Any]:
        with real(self) as txn:
            yield txn
        if self is index and backend.membership(AUDIENCE) is not None:
            try:
                read.append(len(backend.changes(AUDIENCE, 0, 99).changes))
            except CursorExpired as error:
                expired.append(int(error.metadata["oldest_cursor"]))

    monkeypatch.setattr(Environment, "_writing", writing)
    for number in range(3 * kept):
        backend.append(ACCOUNT, [update(f"user-{number}", "gold")])
        backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], GOLD)
        membership = backend.membership(AUDIENCE)
        assert membership is not None
        assert membership.last_sequence - membership.first_sequence + 1 == min(number + 1, kept)
    assert read
    assert expired == sorted(expired)
    assert len(set(expired)) > kept
    backend.close()
