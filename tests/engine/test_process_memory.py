"""Freed memory and read store pages are returned to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from engine import process_memory as memory
from engine.backends.local.storage.environment import Environment
from engine.backends.local.storage.keys import Family, key
from engine.process_memory import let_go_of, mapped_bytes

MEGABYTES_FREED = 190

_PROGRAM = """
from engine.process_memory import give_back, limit_arenas

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
def test_memory_freed_within_the_heap_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True)
    assert int(done.stdout) >= MEGABYTES_FREED


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_pages_of_a_store_are_released_and_read_again(tmp_path: Path) -> None:
    environment = Environment(tmp_path / "index", map_bytes=1 << 30)
    values = [bytes([number]) * 1_000_000 for number in range(40)]
    with environment.writing() as txn:
        for number, value in enumerate(values):
            txn.put(key(Family.DOCUMENT, bytes([number])), value)
    with environment.reading() as txn:
        for _ in txn.scan(key(Family.DOCUMENT)):
            pass
        before = mapped_bytes()
        let_go_of([environment.file, tmp_path / "missing"])
        assert before - mapped_bytes() > 30_000_000
        # Also within a transaction that sees them.
        assert [bytes(value) for _, value in txn.scan(key(Family.DOCUMENT))] == values
    environment.close()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_pages_are_released_only_above_the_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resident = [100 << 20]
    let_go: list[object] = []

    def letting_go(files: object) -> None:
        let_go.append(files)
        resident[0] = 110 << 20

    monkeypatch.setattr(memory, "mapped_bytes", lambda: resident[0])
    monkeypatch.setattr(memory, "let_go_of", letting_go)
    pages = memory.MappedPages([tmp_path])
    for megabytes, times in ((132, 0), (133, 1), (142, 1), (143, 2)):
        resident[0] = megabytes << 20
        pages.check()
        assert let_go == [[tmp_path]] * times


def test_freed_memory_is_returned_after_the_process_has_grown(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(monkeypatch)
    freed = memory.FreedMemory()
    for seconds, megabytes, times in (
        (0.0, 115, 0),
        (1.0, 116, 1),
        # 111 are left, so 127 would be enough, but not so soon.
        (2.0, 200, 1),
        (6.0, 127, 2),
        (7.0, 122, 2),
        # Shrinking by itself counts too.
        (8.0, 50, 2),
        (9.0, 65, 2),
        (11.0, 66, 3),
    ):
        process.now, process.megabytes = seconds, megabytes
        freed.check()
        assert process.given_back == times, (seconds, megabytes)


def test_memory_that_was_held_at_first_is_returned_later(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(monkeypatch)
    freed = memory.FreedMemory()
    process.megabytes = 800
    freed.check()
    assert process.given_back == 1
    process.free_megabytes = 300
    returned_at = []
    for second in range(1, 400):
        process.now = float(second)
        before = process.given_back
        freed.check()
        if process.given_back > before:
            returned_at.append(second)
    # 300 MB came back after five seconds, and little more after that.
    assert returned_at == [5, 10, 20, 40, 80, 160]
    assert process.megabytes < 500


class _Process:
    """A process whose free memory is counted, not returned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.megabytes, self.free_megabytes, self.given_back, self.now = 100, 5, 0, 0.0
        monkeypatch.setattr(memory, "own_bytes", lambda: self.megabytes << 20)
        monkeypatch.setattr(memory, "give_back", self._give_back)
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def _give_back(self) -> None:
        self.given_back += 1
        self.megabytes -= self.free_megabytes
        self.free_megabytes = 5
