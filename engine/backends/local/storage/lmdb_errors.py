"""Translates LMDB exceptions into engine errors."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from engine.errors import DataLoss, LimitExceeded

SHORT_WRITE_ROOM_BYTES = 64 << 20
"""With less free space than this, a failed write counts as cut short: more than LMDB writes in one call."""

# Errors LMDB raises for inconsistent tree pages, which our checksums do not cover.
_BROKEN_TREE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)

# System errors of a file that cannot grow: the disk, a quota or a process limit.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def translated(file: Path | None = None) -> Iterator[None]:
    """Translates LMDB exceptions into the engine's errors; `file` is the file being written."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.DiskError) as error:
        raise LimitExceeded("the store is full", reason="STORE_FULL") from error
    except _BROKEN_TREE as error:
        raise DataLoss("the pages of the store are damaged") from error
    except lmdb.Error as error:
        # LMDB reports a write that was cut short by a full disk like any other failed write.
        is_short = error.code == errno.EIO and file is not None and _is_short_of_room(file)
        if error.code in NO_ROOM or is_short:
            raise LimitExceeded("the store is full", reason="STORE_FULL") from error
        raise


def _is_short_of_room(file: Path) -> bool:
    """Whether the file cannot grow by much: the disk is nearly full, or the process has a size limit."""
    disk = os.statvfs(file)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = disk.f_bavail * disk.f_frsize
    if limit != resource.RLIM_INFINITY:
        room = min(room, limit - file.stat().st_size)
    return room < SHORT_WRITE_ROOM_BYTES
