"""Memory, processor time and files of a process, from the kernel."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

BYTES_A_KIB = 1_024
BYTES_A_BLOCK = 512
_UTIME_FIELD = 11
"""Index of `utime` in /proc/<pid>/stat, counted behind the command's closing bracket; `stime` follows."""


def status_bytes(pid: int, field: str) -> int:
    """A memory field of /proc/<pid>/status: `VmRSS` is resident memory, `RssAnon` its anonymous part, `VmHWM`
    its peak.
    """
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None, f"no {field} in the status of process {pid}"
    return int(found.group(1)) * BYTES_A_KIB


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads so far: unlike a clock it hardly depends on what else is running."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    fields = stat.rpartition(")")[2].split()
    ticks = int(fields[_UTIME_FIELD]) + int(fields[_UTIME_FIELD + 1])
    return ticks / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process that run."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for thread in threads for child in thread.read_text(encoding="ascii").split())


def children_cpu_seconds() -> float:
    """Processor time of all children of this process that have ended and were waited for."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def bytes_on_disk(directory: Path) -> int:
    """Blocks in use of all files below: a store's files are sparse, their length says little."""
    return sum(path.stat().st_blocks * BYTES_A_BLOCK for path in directory.rglob("*") if path.is_file())
