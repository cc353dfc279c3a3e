"""Kills a process at a chosen line: run as `python -m`, with a function of this module and directories.

Each child performs the same operation in its own directory and ends, without cleanup, before a line of one of
the `WATCHED` files: the first child before the first line, and so on, until one completes.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from engine.backends.local import offline
from engine.backends.local.storage.store import Store

WATCHED = ("storage/store.py", "storage/building.py", "storage/ownership.py", "local/offline.py")
"""Where directories are changed."""
STEP = 4
"""Every fourth line: most do nothing to the disk."""


def create(directory: Path, source: Path) -> None:
    """Creates a store."""
    Store.open(directory, groups=2, map_bytes=1 << 20).close()


def restore(directory: Path, source: Path) -> None:
    """Restores a backup."""
    offline.restore(source, directory)


def adopt(directory: Path, source: Path) -> None:
    """Adopts a copy."""
    offline.adopt(directory)


def killed_at(line: int, action: Callable[[], None]) -> int:
    """The status of a child that ends before that line; 0 when it got through."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if not any(part in frame.f_code.co_filename for part in WATCHED):
            return None
        if event == "line":
            lines += 1
            if lines == line:
                os._exit(9)
        return trace

    sys.settrace(trace)
    action()
    os._exit(0)


def main(name: str, room: Path, source: Path) -> None:
    """Leaves one directory for each line, of which those that look alike are removed."""
    action: Callable[[Path, Path], None] = globals()[name]
    seen: set[tuple[object, ...]] = set()
    status, line = 9, 1
    while status:
        directory = room / str(line)
        if name == "adopt":
            shutil.copytree(source, directory)
        status = killed_at(line, lambda directory=directory: action(directory, source))  # type: ignore[misc]
        look = looks_like(directory)
        if look in seen and status:
            shutil.rmtree(directory, ignore_errors=True)
        seen.add(look)
        line += STEP


def looks_like(directory: Path) -> tuple[object, ...]:
    """Names and sizes, and which stage the lock file says."""
    lock = directory / "lock"
    stage = lock.read_bytes().partition(b'"stage":')[2][:12] if lock.exists() else None
    names = sorted(
        (path.relative_to(directory).parts[-2:], path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file()
    )
    return (directory.exists(), stage, *names)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
