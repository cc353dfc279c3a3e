"""Marks and changes of an audience never go back, whenever the process is killed."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

KILLS = 3
LINES_MAX = 60


def test_marks_and_changes_never_go_back(tmp_path: Path) -> None:
    """1. A process refreshes an audience and prints what a watcher is sent. 2. It is killed in between, and
    started again. 3. Over all runs marks only grow, and no change is dated before a mark that was sent
    before the change.
    """
    seed = random.randrange(1 << 20)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    marks: list[tuple[int, int]] = []
    changes: dict[int, int] = {}
    for _ in range(KILLS + 1):
        for kind, sequence, instant in lines_of(tmp_path / "store", chosen.randrange(15, LINES_MAX)):
            if kind == "M":
                assert instant >= max((reached for _, reached in marks), default=0)
                marks.append((sequence, instant))
            else:
                assert changes.setdefault(sequence, instant) == instant
                assert all(reached <= instant for cursor, reached in marks if cursor < sequence)
    assert len(marks) > KILLS
    assert [changes[sequence] for sequence in sorted(changes)] == sorted(changes.values())


def lines_of(directory: Path, count: int) -> list[tuple[str, int, int]]:
    """The first lines that the process prints; then it is killed."""
    command = [sys.executable, "-m", "tests.faults.marking", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(count)]
        process.kill()
    assert all(lines), "the process ended by itself"
    return [(kind, int(sequence), int(instant)) for kind, sequence, instant in lines]
