"""Memory that was freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEGABYTES_FREED = 190

_PROGRAM = """
from engine.local.memory import give_back, limit_arenas

def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * 4_096

limit_arenas()
blocks = [b"x" * (100_000 + n % 2) for n in range(2_000)]
# The last one stays, so that the heap cannot shrink from its end.
blocks[:-1] = []
before = resident_bytes()
give_back()
print((before - resident_bytes()) // 1_000_000)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_what_was_freed_within_the_heap_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= MEGABYTES_FREED
