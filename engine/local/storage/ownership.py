"""Which process owns a store: a lock on a file that lasts as long as the process."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import StoreUnavailable

LOCK_FILE = "lock"


@contextmanager
def owned(directory: Path) -> Iterator[None]:
    """For the length of the block nobody else owns the store in the directory. Raises StoreUnavailable
    (STORE_LOCKED) when somebody does.
    """
    lock = lock_store(directory)
    try:
        yield
    finally:
        os.close(lock)


def lock_store(directory: Path) -> int:
    """Locks the store in a directory for this process, until the descriptor is closed. Raises
    StoreUnavailable (STORE_LOCKED) when another process holds the lock.
    """
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StoreUnavailable(
            f"another process owns the store in {directory}", reason="STORE_LOCKED"
        ) from error
    return descriptor
