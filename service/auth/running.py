"""How many calls of each API key and account run, counted over all processes of a service.

A table in memory that the processes share has a column for each key and account and a cell for each process:
0 is the writer, the others are the readers. A process writes its own cells alone, so there is no lock between
processes. Two that begin a call in the same instant may count one too many, never one too few for long.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable, Mapping

CELL_BYTES = 4
COLUMNS_MAX = 1 << 20
"""Keys and accounts since the start of the service. Those beyond have a count in each process."""


class Cell:
    """The running calls of one key or account in this process, and in the others."""

    __slots__ = ("_at", "_first", "_last", "_words")

    def __init__(self, words: memoryview[int], first: int, processes: int, own: int) -> None:
        self._words = words
        self._first, self._last = first, first + processes
        self._at = first + own

    def put(self, running: int) -> None:
        """Tells the others how many calls run here."""
        self._words[self._at] = running

    def others(self) -> int:
        """How many run in the other processes."""
        words = self._words
        return sum(words[self._first : self._last]) - words[self._at]


class RunningCalls:
    """The table, as one process sees it. The writer makes it and gives out the columns."""

    def __init__(self, processes: int, *, own: int = 0, descriptor: int | None = None) -> None:
        """`own` is the number of this process; `descriptor` that of the table, None = a new one."""
        self._processes = processes
        self._own = own
        size = COLUMNS_MAX * processes * CELL_BYTES
        if descriptor is None:
            descriptor = os.memfd_create("milepost-running", os.MFD_CLOEXEC)
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        # Cells that nobody has written take no memory.
        self._words: memoryview[int] = memoryview(mmap.mmap(descriptor, size)).cast("i")
        self._columns: dict[str, int] = {}
        self._lock = threading.Lock()

    def columns_of(self, names: Iterable[str]) -> dict[str, int]:
        """The column of each key or account; a new one gets the next."""
        with self._lock:
            for name in names:
                if name not in self._columns and len(self._columns) < COLUMNS_MAX:
                    self._columns[name] = len(self._columns)
            return {name: self._columns[name] for name in names if name in self._columns}

    def know(self, columns: Mapping[str, int]) -> None:
        """Takes over the columns that the writer gave out."""
        with self._lock:
            self._columns.update(columns)

    def cell(self, name: str) -> Cell | None:
        """The cells of a key or account; None when it has no column."""
        column = self._columns.get(name)
        if column is None:
            return None
        return Cell(self._words, column * self._processes, self._processes, self._own)

    def forget(self, process: int) -> None:
        """Clears the cells of a process that has ended."""
        with self._lock:
            for column in self._columns.values():
                self._words[column * self._processes + process] = 0

    def close(self) -> None:
        """Closes the descriptor. The memory goes with its last user."""
        os.close(self.descriptor)
