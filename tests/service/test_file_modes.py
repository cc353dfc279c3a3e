"""A store and its backups are private to the user of the service; unusable directories are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from engine.errors import FailedPrecondition
from milepost.v1 import admin_service_pb2
from service import offline
from service.application import Application
from service.config import Config
from tests.harness import refusal_of, serving


@pytest.fixture(autouse=True)
def generous_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> dict[str, str]:
    """What group or others may do anything with, and its mode."""
    found = [directory, *directory.rglob("*")]
    assert sum(path.name == "data.mdb" for path in found) >= 2
    return {str(path): oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077}


def backup(directory: Path, backup_dir: Path) -> Path:
    with serving(directory, backup_dir=backup_dir) as service:
        answer = service.admin.CreateBackup(admin_service_pb2.CreateBackupRequest(backup_id="first"))
    return Path(answer.directory)


def test_new_stores_and_backups_are_private(tmp_path: Path) -> None:
    made = backup(tmp_path / "store", tmp_path / "backups")
    assert open_to_others(tmp_path / "store") == {}
    assert open_to_others(made.parent) == {}
    offline.restore(made, tmp_path / "restored")
    assert open_to_others(tmp_path / "restored") == {}


def test_compaction_makes_files_private_and_keeps_the_mode_of_directories(tmp_path: Path) -> None:
    directory = tmp_path / "store"
    backup(directory, tmp_path / "backups")
    for file in directory.glob("*/data.mdb"):
        file.chmod(0o644)
    directory.chmod(0o750)
    with serving(directory):
        pass
    assert len(open_to_others(directory)) == 3
    offline.compact(directory)
    assert open_to_others(directory) == {str(directory): oct(0o40750)}


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    """A file where a directory is expected."""
    path = tmp_path / "file"
    path.write_text("")
    return path


def test_unusable_backup_directory_is_refused_at_the_start(tmp_path: Path, a_file: Path) -> None:
    for unusable in (Path("/proc"), Path("/proc/backups"), Path("/proc/self"), a_file, a_file / "below"):
        message = f"^the backup directory {unusable} cannot be written to: "
        with pytest.raises(FailedPrecondition, match=message):
            Application(Config(data_dir=tmp_path / "store", port=0, backup_dir=unusable))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("a_file", [False, True])
def test_unusable_output_directory_is_refused_at_the_start(tmp_path: Path, a_file: bool) -> None:
    unusable = tmp_path / "file" if a_file else Path("/proc/outputs")
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition) as refusal:
        Application(Config(data_dir=tmp_path / "store", port=0, output_dir=unusable))
    assert refusal.value.message.startswith(f"the output directory {unusable} cannot be written to: ")
    assert refusal.value.message.endswith("choose another with --output-dir")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("setting", ["data_dir", "backup_dir", "output_dir"])
def test_a_file_in_the_place_of_a_directory_is_named_with_the_setting(
    tmp_path: Path, a_file: Path, setting: str
) -> None:
    for path, reason in ((a_file, "it is a file"), (a_file / "below", "a part of its path is a file")):
        settings: dict[str, Any] = {"data_dir": tmp_path / "store", setting: path}
        with pytest.raises(FailedPrecondition) as refusal:
            Application(Config(port=0, **settings))
        flag = "--" + setting.replace("_", "-")
        assert f"{path} cannot be" in refusal.value.message
        assert refusal.value.message.endswith(f": {reason}; choose another with {flag}")


def test_backup_directory_that_becomes_unusable(tmp_path: Path) -> None:
    with serving(tmp_path / "store", backup_dir=tmp_path / "backups") as service:
        (tmp_path / "backups").rmdir()
        (tmp_path / "backups").write_text("")
        request = admin_service_pb2.CreateBackupRequest(backup_id="first")
        refusal = refusal_of(service.admin.CreateBackup, request)
    assert (refusal.code, refusal.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "BACKUP_DIRECTORY_UNUSABLE",
    )
    assert str(tmp_path / "backups") in refusal.message
