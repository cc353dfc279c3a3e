"""Offline operations: verify, figures, restore, compact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from engine.backends.base import Members
from engine.backends.base.upkeep import StoreFault, StoreVerified
from engine.backends.local.backend import LocalBackend
from engine.backends.local.offline import compact, restore, store_figures, verify_store
from engine.backends.local.settings import LocalSettings
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.header import FORMAT_VERSION, StoreHeader, write_header
from engine.backends.local.storage.keys import Family, key
from engine.errors import DataLoss, FailedPrecondition, StoreUnavailable
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, SHOP, WEB, event, plan_of, update
from tests.stores import go_on_with

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[LocalBackend]:
    backend = LocalBackend.open(directory, settings=SETTINGS)
    try:
        yield backend
    finally:
        backend.close()


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[LocalBackend]:
    with opened(tmp_path / "store") as backend:
        backend.append(ACCOUNT, [event(f"user-{i}", event_id=str(i)) for i in range(500)])
        backend.checkpoint()
        backend.append(ACCOUNT, [update(f"user-{i}", plan="gold") for i in range(100)])
        yield backend


def faults_of(directory: Path) -> list[StoreFault]:
    *faults, result = (
        each for each in verify_store(directory) if isinstance(each, StoreFault | StoreVerified)
    )
    assert isinstance(result, StoreVerified)
    return [fault for fault in faults if isinstance(fault, StoreFault)]


def damage(directory: Path, family: Family) -> None:
    """Flips a bit of a value."""
    with lmdb.open(str(directory / "index")) as env, env.begin(write=True) as txn:
        cursor = txn.cursor()
        assert cursor.set_range(key(family))
        value = cursor.value()
        txn.put(cursor.key(), value[:-1] + bytes([value[-1] ^ 1]))


# --- verify and figures -------------------------------------------------------------------------------------


def test_a_store_and_its_backup_are_sound_and_counted_alike(backend: LocalBackend, tmp_path: Path) -> None:
    backend.snapshot(tmp_path / "backup")
    figures = backend.figures()
    backend.close()
    assert faults_of(tmp_path / "backup") == faults_of(tmp_path / "store") == []
    backup, store = store_figures(tmp_path / "backup"), store_figures(tmp_path / "store")
    assert (backup.users, backup.events, backup.revision, backup.checkpointed_revision) == (500, 500, 2, 1)
    assert (store.users, store.events, store.revision, store.checkpointed_revision) == (500, 500, 2, 2)
    assert backup.kinds == figures.kinds
    assert {file.name for file in backup.files} == {"index", "log"}
    assert backup.store_id == store.store_id == figures.store_id
    assert backup.format_version == FORMAT_VERSION
    # Reading a backup leaves nothing behind in it.
    assert sorted(path.name for path in (tmp_path / "backup" / "index").iterdir()) == ["data.mdb"]


def test_free_pages_are_counted(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "env", map_bytes=16 << 20)
    with environment.writing() as txn:
        for number in range(100):
            txn.put(key(Family.EVENT_COLUMN, number), bytes(10_000))
    full = environment.figures()
    with environment.writing() as txn:
        txn.delete_prefix(key(Family.EVENT_COLUMN))
    empty = environment.figures()
    environment.close()
    # Three pages of 4,096 bytes each, and a few that lead to them.
    assert 100 * 3 * 4_096 <= full.used_bytes <= 104 * 3 * 4_096
    # LMDB's own two pages, and one for the record of the last commit.
    assert empty.used_bytes == 3 * 4_096
    assert empty.free_bytes >= full.used_bytes - empty.used_bytes
    assert empty.used_bytes + empty.free_bytes <= empty.file_bytes <= empty.limit_bytes == 16 << 20


def test_a_directory_without_a_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for ask in (faults_of, store_figures, compact):
        with pytest.raises(StoreUnavailable) as raised:
            ask(tmp_path / "empty")
        assert raised.value.reason == "STORE_MISSING"
        assert str(tmp_path / "empty") in raised.value.message
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_newer_format_is_refused(backend: LocalBackend, tmp_path: Path) -> None:
    newer = StoreHeader(FORMAT_VERSION + 1, backend.store_id, 2, 7)
    backend.snapshot(tmp_path / "backup")
    for part in ("log", "index"):
        environment = Environment(tmp_path / "backup" / part)
        with environment.writing() as txn:
            write_header(txn, newer)
        environment.close()
    with pytest.raises(StoreUnavailable, match=f"version {FORMAT_VERSION + 1}; this build reads") as raised:
        restore(tmp_path / "backup", tmp_path / "restored")
    assert raised.value.reason == "STORE_FORMAT"
    assert not (tmp_path / "restored").exists()


# --- restore ------------------------------------------------------------------------------------------------


def test_restored_store_has_a_new_id(backend: LocalBackend, tmp_path: Path) -> None:
    backend.snapshot(tmp_path / "backup")
    backend.append(ACCOUNT, [event("later")])
    (tmp_path / "restored" / "lost+found").mkdir(parents=True)
    figures = restore(tmp_path / "backup", tmp_path / "restored")
    assert (figures.users, figures.events, figures.revision) == (500, 500, 2)
    again = restore(tmp_path / "backup", tmp_path / "again")
    assert len({backend.store_id, figures.store_id, again.store_id}) == 3
    assert store_figures(tmp_path / "backup").store_id == backend.store_id
    with opened(tmp_path / "restored") as restored:
        assert restored.store_id == figures.store_id
        assert len(restored.execute(EVERYONE, Members()).user_ids) == 500
        # What the log of the backup held is there too, and is known to have been seen.
        profile = restored.profile(ACCOUNT, "user-99")
        assert profile is not None
        assert [value for _, value in profile.attributes[SHOP].values()] == ["gold"]
        answer = restored.append(ACCOUNT, [event("user-1", event_id="1"), event("new", event_id="new")])
        assert (answer.revision, answer.accepted, answer.duplicates) == (3, 1, 1)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["index", "lock", "log"]


def test_a_restore_overwrites_nothing(backend: LocalBackend, tmp_path: Path) -> None:
    backend.snapshot(tmp_path / "backup")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").touch()
    (tmp_path / "file").touch()
    for name in ("taken", "file", "store"):
        with pytest.raises(FailedPrecondition) as raised:
            restore(tmp_path / "backup", tmp_path / name)
        assert raised.value.reason == "DIRECTORY_NOT_EMPTY"
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["precious"]


def test_a_restore_that_fails_leaves_the_directories_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new", "new/below/it"):
        with pytest.raises(StoreUnavailable, match="there is no store in"):
            restore(tmp_path / "none", tmp_path / name)
    assert [(path.name, list(path.iterdir())) for path in tmp_path.iterdir()] == [("empty", [])]


@pytest.mark.parametrize("family", [Family.PROFILE, Family.EVENT_COLUMN, Family.NAME])
def test_a_damaged_backup_is_not_restored(backend: LocalBackend, tmp_path: Path, family: Family) -> None:
    backend.checkpoint()
    backend.snapshot(tmp_path / "backup")
    damage(tmp_path / "backup", family)
    with pytest.raises(DataLoss) as raised:
        restore(tmp_path / "backup", tmp_path / "restored")
    assert raised.value.metadata["key_family"] == family.name
    assert not (tmp_path / "restored").exists()


def test_inconsistent_backup_is_not_restored(backend: LocalBackend, tmp_path: Path) -> None:
    """All its checksums are right."""
    backend.snapshot(tmp_path / "backup")
    environment = Environment(tmp_path / "backup" / "index")
    with environment.writing() as txn:
        txn.delete(next(txn.keys(key(Family.USER_RUN))))
    environment.close()
    with pytest.raises(DataLoss, match="USER") as raised:
        restore(tmp_path / "backup", tmp_path / "restored")
    assert str(tmp_path / "backup") in raised.value.message
    assert not (tmp_path / "restored").exists()


def test_a_damaged_value_stops_a_backup(backend: LocalBackend, tmp_path: Path) -> None:
    backend.checkpoint()
    with backend._store.index._env.begin(write=True) as txn:
        cursor = txn.cursor()
        assert cursor.set_range(key(Family.PROFILE))
        txn.put(cursor.key(), cursor.value()[:-1] + b"?")
    with pytest.raises(DataLoss) as raised:
        backend.snapshot(tmp_path / "backup")
    assert raised.value.metadata["key_family"] == "PROFILE"


# --- compact ------------------------------------------------------------------------------------------------


def test_compaction_only_frees_space(backend: LocalBackend, tmp_path: Path) -> None:
    for round_ in range(5):
        backend.append(ACCOUNT, [update(f"user-{i}", note=f"{round_}" * 2_000) for i in range(500)])
        backend.checkpoint()
    store_id = backend.store_id
    backend.close()
    free = sum(file.free_bytes for file in store_figures(tmp_path / "store").files)
    compacted = compact(tmp_path / "store")
    figures = store_figures(tmp_path / "store")
    assert compacted.before_bytes - compacted.after_bytes >= 0.9 * free > 1_000_000
    assert compacted.after_bytes == sum(file.disk_bytes for file in figures.files)
    assert sum(file.free_bytes for file in figures.files) <= 64 * 1_024
    assert (figures.store_id, figures.users, figures.events) == (store_id, 500, 500)
    assert faults_of(tmp_path / "store") == []
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["index", "lock", "log"]
    with opened(tmp_path / "store") as again:
        assert len(again.execute(EVERYONE, Members()).user_ids) == 500
        assert again.append(ACCOUNT, [event("user-1", event_id="1")]).duplicates == 1


def test_running_store_is_not_compacted(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        compact(tmp_path / "store")
    assert raised.value.reason == "STORE_LOCKED"


def test_compaction_keeps_the_log(backend: LocalBackend, tmp_path: Path) -> None:
    backend.snapshot(tmp_path / "crashed")
    compact(go_on_with(tmp_path / "crashed"))
    assert store_figures(tmp_path / "crashed").checkpointed_revision == 2
    with opened(tmp_path / "crashed") as again:
        assert again.profile(ACCOUNT, "user-99") == backend.profile(ACCOUNT, "user-99")
