"""Memory that processes share: a file without a name, mapped by all of them.

It ends with the last process that has it, needs no cleaning up, and nothing of it is written to a disk. The
file reserves far more addresses than it has memory: pages that nobody has written take none.
"""

from __future__ import annotations

import itertools
import mmap
import os
import threading
from collections import defaultdict

import numpy as np
import numpy.typing as npt

from engine.errors import LimitExceeded

ARENA_BYTES = 1 << 38
WORD_BYTES = 8
PAGE_BYTES = 4096
BLOCK_BYTES_MIN = 64
RETURNED_BYTES_MIN = 1 << 16
"""Free blocks from this size on give their memory back."""

Words = npt.NDArray[np.uint64]


class Arena:
    """The memory as the writer sees it. Offsets are in bytes. Blocks have powers of two as sizes and begin at
    multiples of their size, or of a page if that is less.
    """

    def __init__(self, first_bytes: int) -> None:
        """`first_bytes` are in use from the beginning."""
        self.descriptor = os.memfd_create("milepost-serving", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, ARENA_BYTES)
        self._map = mmap.mmap(self.descriptor, ARENA_BYTES)
        self.words: memoryview[int] = memoryview(self._map).cast("Q")
        self.address: int = np.frombuffer(self._map, np.uint64, 1).__array_interface__["data"][0]
        """Where this process has mapped it."""
        self._end = _rounded(first_bytes, PAGE_BYTES)
        self._free: dict[int, list[int]] = defaultdict(list)
        # Blocks are also freed by the garbage collector, in any thread, also in one that allocates.
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)

    def allocate(self, size: int) -> int:
        """A block of at least this size. Its content is arbitrary. Raises LimitExceeded."""
        size = block_bytes(size)
        with self._lock:
            if self._free[size]:
                return self._free[size].pop()
            at = _rounded(self._end, min(size, PAGE_BYTES))
            if at + size > ARENA_BYTES:
                raise LimitExceeded(f"memory for readers is used up: {ARENA_BYTES >> 30} GiB of addresses")
            self._end = at + size
            return at

    def free(self, at: int, size: int) -> None:
        """Frees a block. A reader may still be reading it, and notices afterwards."""
        size = block_bytes(size)
        if size >= RETURNED_BYTES_MIN:
            self._map.madvise(mmap.MADV_REMOVE, at, size)
        with self._lock:
            self._free[size].append(at)

    def next_number(self) -> int:
        """A number that was not given before; not 0."""
        return next(self._numbers)

    def array(self, at: int, words: int) -> Words:
        """Words as an array over the memory itself."""
        return np.frombuffer(self._map, np.uint64, words, at)

    def put(self, data: bytes) -> int:
        """A new block with this content."""
        at = self.allocate(len(data))
        self._map[at : at + len(data)] = data
        return at

    def close(self) -> None:
        """Closes the descriptor. The memory goes with its last user."""
        os.close(self.descriptor)


def block_bytes(size: int) -> int:
    """The size of the block for that many bytes."""
    return max(BLOCK_BYTES_MIN, 1 << (size - 1).bit_length())


def _rounded(number: int, unit: int) -> int:
    return (number + unit - 1) // unit * unit
