"""Returns memory to the system on Linux with glibc; elsewhere does nothing.

Calls and stores work in bursts: batches and checkpoints allocate much and free it again. Freed memory stays
with the process, spread over the arenas of many threads, unless the allocator is configured otherwise. And
every page of a mapped file that was read once counts as resident until the kernel needs it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

ARENAS_MAX = 2
"""Arenas of the allocator. Python threads take turns anyway, so more would save no waiting and keep more
freed memory.
"""

MAPPED_BYTES_MAX = 32 << 20
"""Bytes of mapped store pages that may stay resident. Reading that much again takes less than a millisecond.
"""

POLL_SECONDS = 0.2
FREED_BYTES_MIN = 16 << 20
"""Growth of the process, in bytes, after which freed memory is returned."""
TRIM_SECONDS = 5.0
"""Minimum interval between two returns of freed memory."""
TRIM_SECONDS_MAX = 80.0
"""Longest interval until memory is returned once more, though the process has not grown since."""

_M_ARENA_MAX = -8
_RESIDENT_PAGES_FIELD, _SHARED_PAGES_FIELD = 1, 2
"""Fields of /proc/self/statm: resident pages, and those of them that belong to files."""


def limit_arenas() -> None:
    """Makes all threads share a few arenas. Call before threads start."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)


def give_back() -> None:
    """Returns free memory to the system: some milliseconds, in which other threads run."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def mapped_bytes() -> int:
    """Resident pages of mapped files; 0 when the system does not report it."""
    return _resident_bytes()[1]


def own_bytes() -> int:
    """Resident pages that belong to no file; 0 when the system does not report it."""
    resident, mapped = _resident_bytes()
    return resident - mapped


def _resident_bytes() -> tuple[int, int]:
    try:
        fields = Path("/proc/self/statm").read_bytes().split()
    except OSError:
        return 0, 0
    resident, mapped = (
        int(fields[at]) * mmap.PAGESIZE for at in (_RESIDENT_PAGES_FIELD, _SHARED_PAGES_FIELD)
    )
    return resident, mapped


class FreedMemory:
    """Returns memory freed by questions and batches.

    Memory that calls still hold when some is returned is free a moment later, and nothing grows by that. So
    memory is returned again after `TRIM_SECONDS`, and after twice as long each time, until one of them is
    longer than `TRIM_SECONDS_MAX`.
    """

    def __init__(self) -> None:
        self._kept_bytes = own_bytes()
        self._trimmed_at = time.monotonic() - TRIM_SECONDS
        self._pause_s = math.inf
        """Until memory is returned without growth."""

    def check(self) -> None:
        """Returns memory when the process has grown since the last time, and again some time later."""
        bytes_now, now = own_bytes(), time.monotonic()
        self._kept_bytes = min(self._kept_bytes, bytes_now)
        has_grown = bytes_now >= self._kept_bytes + FREED_BYTES_MIN
        if now < self._trimmed_at + (TRIM_SECONDS if has_grown else self._pause_s):
            return
        give_back()
        self._kept_bytes, self._trimmed_at = own_bytes(), now
        if has_grown or self._kept_bytes <= bytes_now - FREED_BYTES_MIN:
            self._pause_s = TRIM_SECONDS
        else:
            self._pause_s = 2 * self._pause_s if self._pause_s < TRIM_SECONDS_MAX else math.inf


class MappedPages:
    """Limits the resident pages of some files."""

    def __init__(self, files: Collection[Path]) -> None:
        self._files = files
        self._others_bytes = mapped_bytes()

    def check(self) -> None:
        """Releases the pages when there are too many."""
        if mapped_bytes() > self._others_bytes + MAPPED_BYTES_MAX:
            let_go_of(self._files)
            self._others_bytes = mapped_bytes()


def keep_small(files: Collection[Path], until: threading.Event) -> None:
    """Returns free memory and releases pages of the files from time to time until the event is set. The files
    must stay mapped as long as this runs.
    """
    pages, freed = MappedPages(files), FreedMemory()
    while not until.wait(POLL_SECONDS):
        pages.check()
        freed.check()


def let_go_of(files: Collection[Path]) -> None:
    """Turns mapped pages of read-only files back into kernel cache. The next reader finds them there unless
    the kernel needed the memory.

    No mapping of the files may end meanwhile: its addresses could be reused by others.
    """
    madvise = _function("madvise")
    if madvise is None:
        return
    names = {str(file.resolve()) for file in files}
    try:
        mappings = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for mapping in mappings.splitlines():
        # Addresses, permissions, offset, device, inode and name. Only the name may contain blanks.
        addresses, *_, name = mapping.split(maxsplit=5)
        if name in names:
            start, end = (int(address, 16) for address in addresses.split("-"))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


@functools.cache
def _function(name: str) -> Callable[..., int] | None:
    """A function of the C library; None where that is not glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    if not hasattr(library, "gnu_get_libc_version"):
        return None
    found: Callable[..., int] = getattr(library, name)
    return found
