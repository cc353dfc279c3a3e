"""A short random walk; `make model OPERATIONS=200000` runs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.backends.local.walk.chapter import WEIGHTS, Chapter

CHAPTERS = 3
CHAPTERS_MAX = 30
OPERATIONS = 300


def test_random_walk_agrees_with_the_oracle(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Ends when every kind of operation has happened; a rare one may need another chapter."""
    seed, happened = pytestconfig.getoption("--hypothesis-seed"), set[str]()
    for number in range(CHAPTERS_MAX):
        if number >= CHAPTERS and happened == set(WEIGHTS):
            break
        chapter = Chapter(f"{seed} {number}", tmp_path / str(number))
        chapter.walk(OPERATIONS)
        happened.update(chapter.happened)
    assert happened == set(WEIGHTS)
