"""Some chapters of a random walk; `make model OPERATIONS=200000` walks further."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.backends.local.walk.chapter import WEIGHTS, Chapter

CHAPTERS = 8


def test_a_random_walk_of_a_store_answers_as_the_oracle(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    seed, happened = pytestconfig.getoption("--hypothesis-seed"), set[str]()
    for number in range(CHAPTERS):
        chapter = Chapter(f"{seed} {number}", tmp_path / str(number))
        chapter.walk()
        happened.update(chapter.happened)
    assert happened == set(WEIGHTS)
