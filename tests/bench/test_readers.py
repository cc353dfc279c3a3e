"""The readers table at a small scale: every number of readers is measured."""

from __future__ import annotations

import shutil

import pytest
from rich.console import Console

from tests.bench import readers

USERS = 400


def test_every_number_of_readers_is_measured() -> None:
    options = readers.Options(USERS, readers=(0, 2), callers=4, seconds=0.05, rounds=1)
    lines = readers.run(options, Console(quiet=True))
    assert [line.readers for line in lines] == [0, 2]
    for line in lines:
        assert line.per_second > 0
        assert line.empty_per_second > 0
        assert line.p99_ms > 0


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_h2load_can_be_the_caller() -> None:
    options = readers.Options(USERS, readers=(0,), callers=4, seconds=1.0, rounds=1, with_h2load=True)
    [line] = readers.run(options, Console(quiet=True))
    assert line.per_second > 0
    assert line.empty_per_second > 0
    assert line.p99_ms > 0
