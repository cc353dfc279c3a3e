"""An LMDB data file, checked before it is mapped.

LMDB trusts the file it maps. It makes a new environment of a missing or empty file, and a page behind the end
of the file ends the process with SIGBUS. So `check_data_file` reads the two meta pages itself and compares
what they claim with the size of the file.

A file may be shorter than its meta page says and still be whole: LMDB never writes a page that was allocated
and freed within one transaction. Such pages are in the list of free pages, which is read then.

The layout is that of LMDB 0.9 (`mdb.c`): `MDB_page`, `MDB_meta`, `MDB_db` and `MDB_node`, little-endian.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MAGIC = 0xBEEFC0DE
DATA_VERSION = 1
PAGE_BYTES_ALLOWED = tuple(1 << bits for bits in range(9, 17))
NO_PAGE = (1 << 64) - 1
"""The root of a tree without pages."""

_PAGE_HEADER = struct.Struct("<QHHHH")
"""Page number, padding, flags, and the bounds of the free room; an overflow page has its page count there."""
_META = struct.Struct("<IIQQ 48s 48s QQ")
"""Magic, version, address, map size, free tree, main tree, last page, transaction."""
_TREE = struct.Struct("<IHHQQQQQ")
"""Page size (in the free tree), flags, depth, three page counts, entries, root."""
_NODE = struct.Struct("<HHHH")
"""Value size or child page, low and high half; flags; key size."""
_NUMBER = struct.Struct("<Q")

_BRANCH, _LEAF, _OVERFLOW, _META_FLAG = 0x01, 0x02, 0x04, 0x08
_BIG_VALUE = 0x01

META_READS_MAX = 5
"""How often a file that another process writes to is read again for one state of it."""


class BrokenFile(Exception):
    """The file cannot be the data file of an environment, or not all of it is there; the message says why."""


class _Meta(NamedTuple):
    transaction: int
    page_bytes: int
    last_page: int
    free_root: int
    main_root: int


def check_data_file(path: Path) -> None:
    """Raises BrokenFile when the file is missing, empty, no LMDB file, or shorter than its pages."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BrokenFile("is missing") from None
    except OSError as error:
        raise BrokenFile(f"cannot be read ({error.strerror})") from error
    try:
        _check(descriptor)
    except IsADirectoryError:
        raise BrokenFile("is not a file") from None
    finally:
        os.close(descriptor)


def _check(descriptor: int) -> None:
    meta = _newest_meta(descriptor)
    for _ in range(META_READS_MAX):
        try:
            _check_length(descriptor, meta)
        except BrokenFile:
            # Pages of a state that is over may have been written to since.
            before, meta = meta, _newest_meta(descriptor)
            if before == meta:
                raise
        else:
            return
    # Another process commits all the time: it has the whole file mapped.


def _newest_meta(descriptor: int) -> _Meta:
    size = os.fstat(descriptor).st_size
    if size == 0:
        raise BrokenFile("is empty")
    first = _meta_at(descriptor, 0)
    second = _meta_at(descriptor, first.page_bytes)
    if first.page_bytes != second.page_bytes:
        raise BrokenFile("has two meta pages that contradict each other")
    return max(first, second)


def _meta_at(descriptor: int, offset: int) -> _Meta:
    page = os.pread(descriptor, _PAGE_HEADER.size + _META.size, offset)
    if len(page) < _PAGE_HEADER.size + _META.size:
        size = os.fstat(descriptor).st_size
        raise BrokenFile(f"has {size:,} bytes, which is less than its two meta pages")
    _, _, flags, _, _ = _PAGE_HEADER.unpack_from(page)
    magic, version, _, _, free, main, last_page, transaction = _META.unpack_from(page, _PAGE_HEADER.size)
    if magic != MAGIC or not flags & _META_FLAG:
        raise BrokenFile("is not an LMDB file, or its meta pages are damaged")
    if version != DATA_VERSION:
        raise BrokenFile(f"has LMDB's data version {version}, not {DATA_VERSION}")
    page_bytes, *_, free_root = _TREE.unpack(free)
    *_, main_root = _TREE.unpack(main)
    if page_bytes not in PAGE_BYTES_ALLOWED:
        raise BrokenFile("is not an LMDB file, or its meta pages are damaged")
    return _Meta(transaction, page_bytes, last_page, free_root, main_root)


def _check_length(descriptor: int, meta: _Meta) -> None:
    """Every page up to the last one is in the file, or is free."""
    size = os.fstat(descriptor).st_size
    pages = size // meta.page_bytes
    missing = meta.last_page + 1 - pages
    if missing <= 0:
        return
    short = BrokenFile(f"has {size:,} bytes, its pages need {(meta.last_page + 1) * meta.page_bytes:,}")
    if any(root != NO_PAGE and root >= pages for root in (meta.free_root, meta.main_root)):
        raise short
    try:
        free = sum(1 for page in _FreePages(descriptor, meta, pages) if pages <= page <= meta.last_page)
    except (struct.error, ValueError):
        raise short from None
    if free < missing:
        raise short


class _FreePages:
    """The numbers of the free pages. Raises ValueError or struct.error where the tree cannot be read."""

    def __init__(self, descriptor: int, meta: _Meta, pages: int) -> None:
        self._descriptor = descriptor
        self._meta = meta
        self._pages = pages
        self._visited = 0

    def __iter__(self) -> Iterator[int]:
        if self._meta.free_root != NO_PAGE:
            yield from self._below(self._meta.free_root)

    def _below(self, number: int) -> Iterator[int]:
        page = self._read(number)
        _, _, flags, lower, _ = _PAGE_HEADER.unpack_from(page)
        if not flags & (_BRANCH | _LEAF):
            raise ValueError(f"page {number} is not part of a tree")
        for at in range(_PAGE_HEADER.size, lower, 2):
            (offset,) = struct.unpack_from("<H", page, at)
            low, high, node_flags, key_bytes = _NODE.unpack_from(page, offset)
            if flags & _BRANCH:
                yield from self._below(low | high << 16 | node_flags << 32)
                continue
            value_bytes, start = low | high << 16, offset + _NODE.size + key_bytes
            value = page[start : start + value_bytes]
            if node_flags & _BIG_VALUE:
                (overflow,) = _NUMBER.unpack_from(page, start)
                count = -(-(value_bytes + _PAGE_HEADER.size) // self._meta.page_bytes)
                value = self._read(overflow, count)[_PAGE_HEADER.size :][:value_bytes]
            (length,) = _NUMBER.unpack_from(value)
            yield from struct.unpack_from(f"<{length}Q", value, _NUMBER.size)

    def _read(self, number: int, count: int = 1) -> bytes:
        self._visited += 1
        if number + count > self._pages or self._visited > self._pages:
            raise ValueError(f"page {number} is not in the file")
        return os.pread(self._descriptor, count * self._meta.page_bytes, number * self._meta.page_bytes)
