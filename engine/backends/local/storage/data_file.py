"""An LMDB data file, checked before it is mapped.

LMDB trusts the file it maps. It creates a new environment in a missing or empty file, and a page beyond the
end of the file kills the process with SIGBUS. So `check_data_file` compares the meta pages with the size of
the file.

A file may be shorter than its meta page says and still be complete: LMDB never writes a page that was
allocated and freed within one transaction. Such pages are in the free list, which is read in that case.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from engine.backends.local.storage.pages import Meta, PageFault, free_pages, read_metas

META_READS_MAX = 5
"""Attempts to read one consistent state of a file that another process writes to."""


class BrokenFile(Exception):
    """The file is not a complete LMDB data file; the message says why."""


def check_data_file(path: Path) -> None:
    """Raises BrokenFile when the file is missing, empty, not an LMDB file, or shorter than its pages."""
    meta = _newest_meta(path)
    for _ in range(META_READS_MAX):
        size = path.stat().st_size
        if _is_whole(path, meta, size // meta.page_bytes):
            return
        before, meta = meta, _newest_meta(path)
        # Otherwise pages of an outdated state may have been overwritten since.
        if before == meta:
            needed = (meta.last_page + 1) * meta.page_bytes
            raise BrokenFile(f"has {size:,} bytes; its pages need {needed:,}")
    # Another process commits all the time, so it has the whole file mapped.


def _newest_meta(path: Path) -> Meta:
    try:
        size = path.stat().st_size
        # To open a pipe would wait for a writer.
        if not path.is_file():
            raise BrokenFile("is not a file")
        if not size:
            raise BrokenFile("is empty")
        return max(read_metas(path), key=lambda meta: meta.transaction)
    except FileNotFoundError:
        raise BrokenFile("is missing") from None
    except OSError as error:
        raise BrokenFile(f"cannot be read ({error.strerror})") from error
    except struct.error:
        raise BrokenFile(f"has {size:,} bytes, fewer than its two meta pages need") from None
    except PageFault:
        raise BrokenFile("is not an LMDB file, or its meta pages are damaged") from None


def _is_whole(path: Path, meta: Meta, pages: int) -> bool:
    """Whether a file with this many pages has every page up to the last one, apart from free ones."""
    missing = meta.last_page + 1 - pages
    if missing <= 0:
        return True
    if any(tree.has_pages and tree.root >= pages for tree in (meta.free, meta.keys)):
        return False
    try:
        free = free_pages(path, meta)
    except PageFault:
        return False
    return int(np.count_nonzero((free >= pages) & (free <= meta.last_page))) >= missing
