"""Backups: one at a time, ended with their call, listed and deleted."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.backends.base import upkeep_of
from engine.backends.local.backend import LocalBackend
from engine.engine import Engine
from engine.errors import AlreadyExists
from engine.resources.paging import Pages
from milepost.v1.admin_service_pb2 import (
    Backup,
    CreateBackupRequest,
    DeleteBackupRequest,
    GetServerInfoRequest,
    ListBackupsRequest,
)
from service.backups import RECORD_FILE, Backups
from tests.harness import EVENTUALLY_S, POLL_S, Serving, eventually, read_refusal, refusal_of, serving

CALLERS = 8


class Slow:
    """Backups that go on until let go, after writing something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.let_go = threading.Event()
        self.begun = 0
        original = LocalBackend.snapshot

        def snapshot(backend: LocalBackend, directory: Path, may_go_on: Callable[[], None]) -> None:
            (directory / "half").write_bytes(b"x")
            self.begun += 1
            while not self.let_go.is_set():
                may_go_on()
                time.sleep(POLL_S)
            (directory / "half").unlink()
            original(backend, directory, may_go_on)

        monkeypatch.setattr(LocalBackend, "snapshot", snapshot)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", access_log="none") as running:
        yield running


def create(service: Serving, backup_id: str) -> Backup:
    return service.admin.CreateBackup(CreateBackupRequest(backup_id=backup_id), timeout=EVENTUALLY_S).backup


def listed(service: Serving) -> list[str]:
    answer = service.admin.ListBackups(ListBackupsRequest())
    return [backup.name for backup in answer.backups]


def on_disk(service: Serving) -> list[str]:
    return sorted(path.name for path in service.backups.iterdir())


def test_backups_are_listed_newest_first_and_deleted(service: Serving) -> None:
    made = [create(service, backup_id) for backup_id in ("b", "c", "a")]
    assert list(service.admin.ListBackups(ListBackupsRequest()).backups) == made[::-1]
    newest = made[-1]
    assert (newest.name, newest.directory) == ("backups/a", str(service.backups / "a"))
    files = [file for file in Path(newest.directory).rglob("*") if file.is_file()]
    assert newest.size_bytes == sum(file.stat().st_size for file in files)
    assert newest.revision == service.admin.GetServerInfo(GetServerInfoRequest()).revision
    service.admin.DeleteBackup(DeleteBackupRequest(name="backups/c"))
    assert listed(service) == ["backups/a", "backups/b"]
    assert on_disk(service) == ["a", "b"]


def test_backups_are_listed_in_pages(service: Serving) -> None:
    made = [create(service, f"b{number}").name for number in range(5)]
    token, found = "", []
    for size in (2, 2, 1):
        page = service.admin.ListBackups(ListBackupsRequest(page_size=2, page_token=token))
        assert len(page.backups) == size
        found += [backup.name for backup in page.backups]
        token = page.next_page_token
    assert (found, token) == (made[::-1], "")


def test_a_backup_of_an_earlier_build_is_listed(service: Serving) -> None:
    made = create(service, "old")
    record = Path(made.directory) / RECORD_FILE
    size_bytes = record.stat().st_size
    record.unlink()
    [found] = service.admin.ListBackups(ListBackupsRequest()).backups
    assert (found.name, found.revision) == ("backups/old", "")
    assert found.size_bytes == made.size_bytes - size_bytes
    assert abs(found.create_time.ToSeconds() - time.time()) < 3_600


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("backups/none", grpc.StatusCode.NOT_FOUND),
        ("none", grpc.StatusCode.INVALID_ARGUMENT),
        ("backups/..", grpc.StatusCode.INVALID_ARGUMENT),
        ("backups/a/b", grpc.StatusCode.INVALID_ARGUMENT),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_only_backups_can_be_deleted(service: Serving, name: str, code: grpc.StatusCode) -> None:
    create(service, "a")
    assert refusal_of(service.admin.DeleteBackup, DeleteBackupRequest(name=name)).code is code
    assert listed(service) == ["backups/a"]


def test_one_backup_is_written_at_a_time(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are refused at once, and nothing else waits."""
    before = create(service, "before").name
    slow = Slow(monkeypatch)
    first = service.admin.CreateBackup.future(CreateBackupRequest(backup_id="first"))
    eventually(lambda: slow.begun)
    refusal = refusal_of(service.admin.CreateBackup, CreateBackupRequest(backup_id="second"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "BACKUP_UNDER_WAY")
    assert listed(service) == [before]
    service.admin.DeleteBackup(DeleteBackupRequest(name=before))
    slow.let_go.set()
    assert first.result().backup.name == "backups/first"
    assert create(service, "second").name == "backups/second"
    assert on_disk(service) == ["first", "second"]


def test_a_backup_that_is_deleted_at_once_was_made(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another call, before the one that made it is answered."""
    rename = Path.rename

    def and_delete(path: Path, target: Path) -> Path:
        made = rename(path, target)
        if target.name == "first":
            shutil.rmtree(target)
        return made

    monkeypatch.setattr(Path, "rename", and_delete)
    made = create(service, "first")
    assert (made.name, made.size_bytes > 0) == ("backups/first", True)
    assert on_disk(service) == []


def test_of_two_backups_with_one_id_one_is_made(tmp_path: Path) -> None:
    """Also when the other one is done just before this one begins."""
    engine = Engine(LocalBackend.in_memory())
    pages = Pages(engine.signer, engine.limits.page_token_bytes_max)
    backups = Backups(tmp_path, pages, lambda: 0)

    class Turn:
        """The other one is written before this one has its turn."""

        def acquire(self, *, blocking: bool) -> bool:
            (tmp_path / "same").mkdir()
            (tmp_path / "same" / RECORD_FILE).write_text("{}")
            return True

        def release(self) -> None:
            pass

    backups._writing = Turn()  # type: ignore[assignment]
    with pytest.raises(AlreadyExists, match="backup same"):
        backups.create(upkeep_of(engine.backend), "same", store_id="s", revision=0, may_go_on=lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
    engine.close()


def cancelled(call: Any) -> None:
    call.cancel()


def left_to_its_deadline(call: Any) -> None:
    with pytest.raises(grpc.RpcError) as end:
        call.result()
    assert end.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("ended", [cancelled, left_to_its_deadline])
def test_a_backup_ends_with_its_call(
    service: Serving, monkeypatch: pytest.MonkeyPatch, ended: Callable[[Any], None]
) -> None:
    """What is written by then is removed, and another can be made."""
    slow = Slow(monkeypatch)
    timeout = 1.0 if ended is left_to_its_deadline else None
    call = service.admin.CreateBackup.future(CreateBackupRequest(backup_id="a"), timeout=timeout)
    eventually(lambda: slow.begun)
    assert len(on_disk(service)) == 1
    ended(call)
    eventually(lambda: not on_disk(service))
    eventually(lambda: service.application.in_flight == 0)
    slow.let_go.set()
    assert create(service, "a").name == "backups/a"


def test_no_backup_is_written_that_nobody_is_told_of(
    service: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many at once, each with a deadline that is too short for it."""
    slow = Slow(monkeypatch)
    calls = [
        service.admin.CreateBackup.future(CreateBackupRequest(backup_id=f"b{number}"), timeout=1.0)
        for number in range(CALLERS)
    ]
    codes = []
    for call in calls:
        with pytest.raises(grpc.RpcError) as end:
            call.result()
        codes.append(end.value.code())
    assert set(codes) <= {
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    eventually(lambda: service.application.in_flight == 0)
    assert slow.begun >= 1
    assert on_disk(service) == []


def test_a_service_that_stops_ends_a_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch)
    with serving(tmp_path / "store", access_log="none", stop_grace_s=0.0) as service:
        call = service.admin.CreateBackup.future(CreateBackupRequest(backup_id="a"))
        eventually(lambda: slow.begun)
        service.application.stop()
        with pytest.raises(grpc.RpcError) as end:
            call.result()
        refusal = read_refusal(end.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert on_disk(service) == []


@pytest.mark.parametrize("cancels", [True, False])
def test_a_real_backup_is_cancelled_while_it_is_copied(service: Serving, cancels: bool) -> None:
    """The store asks whether it may go on, not only before and after."""
    asked = 0

    class Enough(Exception):
        pass

    def may_go_on() -> None:
        nonlocal asked
        asked += 1
        if cancels:
            raise Enough

    directory = service.backups / "direct"
    backend = service.application.engine.backend
    assert isinstance(backend, LocalBackend)
    if cancels:
        with pytest.raises(Enough):
            backend.snapshot(directory, may_go_on)
        assert asked == 1
    else:
        backend.snapshot(directory, may_go_on)
        assert asked >= 2
