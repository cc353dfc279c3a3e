"""Giving memory back to the system, where the C library is glibc; elsewhere nothing happens.

A store works in bursts: batches and folds allocate much and free it again. What is freed stays with the
process, spread over an arena for each of many threads, unless the allocator is told otherwise.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

ARENAS_MAX = 2
"""Threads take turns in Python anyhow: more arenas save no waiting, and each keeps what was freed in it."""

_M_ARENA_MAX = -8


def limit_arenas() -> None:
    """Has all threads of the process share a few arenas. To be called before there are threads."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS_MAX)


def give_back() -> None:
    """Returns free memory to the system: some milliseconds, in which other threads run."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


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
