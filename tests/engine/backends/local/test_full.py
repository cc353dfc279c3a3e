"""A full store: refused writes, working reads, and recovery.

Full is a map that has reached its limit, in small; `tests/faults/test_full_disk.py` has a service and files
that cannot grow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.backends.base import Count, Members
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.transactions import WriteTransaction
from engine.backends.local.storage.write_ahead_log import WriteAheadLog
from engine.errors import LimitExceeded
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, JOURNEY, WEB, event, plan_of
from tests.stores import go_on_with

EVERYONE = plan_of(Universe(inputs=(WEB,)))
SETTINGS = LocalSettings(groups=1, checkpoint_s=3_600.0)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    opened = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    yield opened
    opened.close()


def full(*_: object) -> None:
    raise LimitExceeded("the store is full", reason="STORE_FULL")


def fill(log: WriteAheadLog, entry: bytes) -> None:
    """Appends small batches until one is refused."""
    entries = [entry] * max(1, 8_192 // len(entry))
    while True:
        log.append(entries)


@pytest.mark.parametrize("size", [100, 1_500, 20_000])
def test_full_log_can_be_trimmed(tmp_path: Path, size: int) -> None:
    """Deleting needs pages too, so some are reserved."""
    environment = Environment(tmp_path, map_bytes=1 << 20)
    log = WriteAheadLog(environment, 0)
    for _ in range(2):
        before = log.position
        with pytest.raises(LimitExceeded) as raised:
            fill(log, bytes(size))
        assert raised.value.reason == "STORE_FULL"
        # A third at least: two entries of 1,500 bytes fill a page of 4,096.
        assert (log.position - before) * size > (1 << 20) / 3
        assert log.is_filling
        log.trim(log.position)
        assert not log.is_filling
    environment.close()


def test_writes_are_refused_while_the_index_is_full_then_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.backends.local.roles.checkpoints.FULL_RETRY_SECONDS", 0.0)
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada", event_id="1")])
    with monkeypatch.context() as patch:
        patch.setattr("engine.backends.local.storage.transactions.WriteBuffer.write_to", full)
        with pytest.raises(LimitExceeded):
            backend.checkpoint()
        for write in (
            lambda: backend.append(ACCOUNT, [event("bob")]),
            lambda: backend.erase(ACCOUNT, ["ada"]),
            lambda: backend.alias(ACCOUNT, "bob", "ada"),
        ):
            with pytest.raises(LimitExceeded) as raised:
                write()
            assert raised.value.reason == "STORE_FULL"
        assert backend.execute(EVERYONE, Members()).user_ids == ("ada",)
        assert backend.revision() == 1
    # There is room again: the next attempt to checkpoint finds it, and writes are taken.
    backend.checkpoint()
    assert backend.append(ACCOUNT, [event("bob"), event("ada", event_id="1")]).duplicates == 1
    assert backend.execute(EVERYONE, Count()).sizes == (2,)
    backend.close()


def test_exits_of_erased_users_wait_for_space(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The erasure is logged and effective, though no membership can be written."""
    backend.append(ACCOUNT, [event(f"user-{number}") for number in range(10)])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    with monkeypatch.context() as patch:
        patch.setattr(backend._store.index, "writing", full)
        with pytest.raises(LimitExceeded):
            backend.erase(ACCOUNT, ["user-3", "user-4"])
        assert backend.execute(EVERYONE, Count()).sizes == (8,)
        members = backend.stored_members(AUDIENCE, Members()).user_ids
        assert set(members) == {f"user-{number}" for number in (0, 1, 2, 5, 6, 7, 8, 9)}
        assert backend.changes(AUDIENCE, 10, 10).changes == ()
        with pytest.raises(LimitExceeded):
            backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    backend.checkpoint()
    exits = backend.changes(AUDIENCE, 10, 10).changes
    assert {(change.user_id, change.entered) for change in exits} == {("user-3", False), ("user-4", False)}
    [membership] = backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    assert (membership.size, membership.entered_total, membership.exited_total) == (8, 10, 2)
    assert [type(finding).__name__ for finding in backend.verify()][-1] == "StoreVerified"


def test_an_erasure_in_the_log_of_a_full_store_is_replayed(
    backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full store opens, at least for reading."""
    backend.append(ACCOUNT, [event("ada"), event("bob")])
    backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    with monkeypatch.context() as patch:
        patch.setattr(backend._store.index, "writing", full)
        with pytest.raises(LimitExceeded):
            backend.erase(ACCOUNT, ["ada"])
        backend.snapshot(tmp_path / "copy")
    go_on_with(tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(WriteTransaction, "put", full)
        again = LocalBackend.open(tmp_path / "copy", settings=SETTINGS)
        assert again.execute(EVERYONE, Members()).user_ids == ("bob",)
        assert again.stored_members(AUDIENCE, Members()).user_ids == ("bob",)
    again.checkpoint()
    assert [change.user_id for change in again.changes(AUDIENCE, 2, 10).changes] == ["ada"]
    again.close()


def test_a_checkpoint_that_fails_while_it_is_prepared_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.append(ACCOUNT, [event("ada", event_id="1"), event("bob")], request_id="r")
    backend.alias(ACCOUNT, "bea", "bob")
    with monkeypatch.context() as patch:
        patch.setattr("engine.backends.local.storage.page_cache.PageCache.write", full)
        with pytest.raises(LimitExceeded):
            backend.checkpoint()
    # The log, which could tell it all again, is trimmed by this one.
    backend.checkpoint()
    backend.close()
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    page = backend.execute(EVERYONE, Members())
    assert sorted(page.user_ids) == ["ada", "bob"]
    profile = backend.profile(ACCOUNT, "bea")
    assert profile is not None
    assert profile.user_id == "bob"
    assert backend.append(ACCOUNT, [event("ada", event_id="1")]).duplicates == 1
    assert backend.append(ACCOUNT, [event("eve")], request_id="r").repeated
    backend.close()
