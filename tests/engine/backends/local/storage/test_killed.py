"""Creating, restoring and adopting a store, each killed at every step and repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.backends.base import Count
from engine.backends.base.upkeep import StoreFault
from engine.backends.local import offline
from engine.backends.local.backend import LocalBackend
from engine.backends.local.settings import LocalSettings
from engine.errors import MilepostError
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, WEB, event, plan_of

SETTINGS = LocalSettings(groups=2, checkpoint_s=3_600.0)
EVERYONE = plan_of(Universe(inputs=(WEB,)))
USERS = 50


@pytest.fixture
def store(tmp_path: Path) -> Path:
    backend = LocalBackend.open(tmp_path / "store", settings=SETTINGS)
    backend.append(ACCOUNT, [event(f"user-{number}") for number in range(USERS)])
    backend.checkpoint()
    backend.snapshot(tmp_path / "backup")
    backend.close()
    return tmp_path / "store"


def killed(name: str, tmp_path: Path, source: Path) -> list[Path]:
    """The directories that were left, one for each state that differs."""
    room = tmp_path / name
    room.mkdir()
    command = [
        sys.executable,
        "-m",
        "tests.engine.backends.local.storage.killing",
        name,
        str(room),
        str(source),
    ]
    subprocess.run(command, check=True, timeout=300)
    return sorted(room.iterdir(), key=lambda path: int(path.name))


def users_of(directory: Path) -> int:
    backend = LocalBackend.open(directory, settings=SETTINGS)
    try:
        assert [found for found in backend.verify() if isinstance(found, StoreFault)] == []
        return backend.execute(EVERYONE, Count()).sizes[0]
    finally:
        backend.close()


def refusal_of(directory: Path) -> str:
    try:
        LocalBackend.open(directory, settings=SETTINGS).close()
    except MilepostError as error:
        return error.reason
    return ""


def test_next_start_completes_a_killed_creation(tmp_path: Path) -> None:
    left = killed("create", tmp_path, tmp_path)
    # Among them: no directory, an empty lock file, parts beside, one in place, both, and the whole.
    assert len(left) >= 6
    for directory in left:
        assert users_of(directory) == 0
        assert sorted(path.name for path in directory.iterdir()) == ["index", "lock", "log"]


def test_killed_restore_is_not_served_and_can_be_repeated(tmp_path: Path, store: Path) -> None:
    left = killed("restore", tmp_path, tmp_path / "backup")
    for directory in left:
        lock = directory / "lock"
        is_begun = lock.exists() and lock.stat().st_size > 0
        is_done = is_begun and b'"complete"' in lock.read_bytes()
        if is_begun and not is_done:
            assert refusal_of(directory) == "STORE_UNFINISHED"
        if not is_done:
            offline.restore(tmp_path / "backup", directory)
        assert users_of(directory) == USERS
    assert len(left) >= 6


def test_killed_adoption_is_not_served_and_can_be_repeated(tmp_path: Path, store: Path) -> None:
    store_id = offline.store_figures(store).store_id
    reasons = set()
    for directory in killed("adopt", tmp_path, store):
        reason = refusal_of(directory)
        reasons.add(reason)
        if reason:
            offline.adopt(directory)
        assert offline.store_figures(directory).store_id != store_id
        assert users_of(directory) == USERS
    assert reasons == {"STORE_COPIED", "STORE_UNFINISHED", ""}
