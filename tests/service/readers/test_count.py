"""How many readers start unless a number is given."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from service.config import Config
from service.readers.count import BY_DEFAULT_MAX, cores, readers_for


@pytest.fixture
def unlimited(tmp_path: Path) -> Path:
    """A file that limits nothing."""
    file = tmp_path / "cpu.max"
    file.write_text("max 100000\n")
    return file


@pytest.mark.parametrize(("machine", "readers"), [(1, 0), (2, 1), (4, 3), (9, 8), (64, BY_DEFAULT_MAX)])
def test_one_less_than_cores(machine: int, readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.readers.count.cores", lambda: machine)
    assert Config(data_dir=Path("store")).reader_count == readers


@pytest.mark.parametrize(
    ("content", "expected"),
    [("200000 100000\n", 2), ("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", 6)],
)
def test_the_processor_time_of_a_container_counts(
    content: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    file = tmp_path / "cpu.max"
    file.write_text(content)
    assert cores(file) == expected


@pytest.mark.parametrize("content", ["", "many\n", "1 0\n"])
def test_a_strange_file_limits_nothing(
    content: str, tmp_path: Path, unlimited: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    file = tmp_path / "strange"
    file.write_text(content)
    assert cores(file) == cores(unlimited) == cores(tmp_path / "missing") == 6


def test_none_where_they_cannot_run_or_need_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.readers.count.cores", lambda: 4)
    assert readers_for("local:data") == 3
    assert Config(memory=True).reader_count == 0
    assert readers_for("clickhouse://user@host:9000?gateway=g") == 0
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert readers_for("local:data") == 0


def test_a_number_that_is_given_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.readers.count.cores", lambda: 4)
    for readers in (0, 1, 20):
        assert Config(readers=readers).reader_count == readers
