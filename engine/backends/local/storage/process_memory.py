"""Returns memory to the system on Linux with glibc; elsewhere does nothing.

A store works in bursts: batches and checkpoints allocate much and free it again. Freed memory stays with the
process, spread over the arenas of many threads, unless the allocator is configured otherwise. And every page
of a mapped file that was read once counts as resident until the kernel needs it.
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
    """Returns memory freed by questions and batches."""

    def __init__(self) -> None:
        self._kept_bytes = own_bytes()
        self._trimmed_at = -math.inf

    def check(self) -> None:
        """Returns memory when the process has grown since the last time."""
        bytes_now, now = own_bytes(), time.monotonic()
        self._kept_bytes = min(self._kept_bytes, bytes_now)
        if bytes_now < self._kept_bytes + FREED_BYTES_MIN or now < self._trimmed_at + TRIM_SECONDS:
            return
        give_back()
        self._kept_bytes, self._trimmed_at = own_bytes(), now


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
