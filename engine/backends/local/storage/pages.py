"""Checks the pages of an LMDB file, which have no checksums.

LMDB trusts its file. A changed header, pointer or size makes it read the wrong data, overwrite pages in use,
or kill the process. So the tree is checked before any lookup: its pages and nodes fit each other, keys are in
order, and each page of the file is in use exactly once or free. Whether keys and values are the right ones is
for `key_ranges` and checksums to decide.

The layout, of LMDB 0.9, in bytes; all numbers are little-endian:

==============  ============================================================================================
page            number u64, pad u16, flags u16, lower u16, upper u16 (or, of an overflow page, pages u32)
branch, leaf    u16 offsets of the nodes from 16 to `lower`; nodes without gaps from `upper` to the end
node            low u16, high u16, flags u16, key size u16, key, data
leaf node       size of the data is low + high << 16; with BIG_DATA the data is the u64 number of the first
                overflow page that holds it
branch node     number of the child is low + high << 16 + flags << 32
meta (0 and 1)  after the header: magic u32, version u32, address u64, map size u64, two databases, the last
                page u64, transaction u64
database        pad u32 (of the first: the page size), flags u16, depth u16, branch, leaf and overflow pages,
                entries and root, u64 each
==============  ============================================================================================

The first database lists, by transaction, the pages that are free: their number, then each of them, u64. The
other one has the keys.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from engine.errors import DataLoss

PAGES_AT_ONCE = 512
"""Number of pages copied and checked together."""

UNWRITTEN_PAGES_MAX = 1 << 24
"""Exceeds the pages that one transaction allocates and frees again, which are free but not in the file."""

READS_MAX = 10
"""Reads of meta pages that do not fit each other before the file counts as damaged: another process may
commit between the two pages of one read.
"""

PAGE_FAMILY = "PAGES"
"""Named in errors instead of a family of keys."""

_HEADER_BYTES, _NODE_BYTES, _NUMBER_BYTES = 16, 8, 8
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_DATA = 0x01
_INTEGER_KEYS = 0x08
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_KEY_BYTES_MAX = 511
_NO_ROOT = (1 << 64) - 1
_DEPTH_MAX = 32
_METAS_BYTES = 1 << 17

_META_FORM = struct.Struct("<QHHIIIQQ")
_DATABASE_FORM = struct.Struct("<IHHQQQQQ")
_META_END_FORM = struct.Struct("<QQ")

Numbers = npt.NDArray[np.int64]


class PageFault(Exception):
    """A fault and its page."""

    def __init__(self, page: int, what: str) -> None:
        super().__init__(f"page {page} {what}")


class Database(NamedTuple):
    """One of the two trees, as described by a meta page."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int

    @property
    def has_pages(self) -> bool:
        """Whether anything is in the tree."""
        return self.root != _NO_ROOT


class Meta(NamedTuple):
    """A meta page: the state after one transaction."""

    free: Database
    keys: Database
    last_page: int
    transaction: int

    @property
    def page_bytes(self) -> int:
        """Size of a page, in bytes."""
        return self.free.pad

    @property
    def tree_pages(self) -> int:
        """Number of branch and leaf pages."""
        return sum(tree.branch_pages + tree.leaf_pages for tree in (self.free, self.keys))


def read_meta(file: Path, transaction: int | None = None) -> Meta | None:
    """The latest state of a file that no one writes to or, given a transaction number, the state after that
    transaction; None when that state was overwritten, or the file is missing or empty. Raises DataLoss when
    the meta pages are damaged.
    """
    if not file.is_file() or not file.stat().st_size:
        return None
    try:
        metas = _metas_in_turn(file)
    except (PageFault, struct.error) as fault:
        raise damaged(file, str(fault)) from None
    if transaction is None:
        return max(metas, key=lambda meta: meta.transaction)
    return next((meta for meta in metas if meta.transaction == transaction), None)


def check_pages(file: Path, meta: Meta, check: Callable[[], None] = lambda: None) -> None:
    """Raises DataLoss unless every page of the state is sound. Its pages must not be written meanwhile: hold
    a read transaction of it, or own the file. `check` is called from time to time and may raise.
    """
    try:
        _Scan(file, meta, check).run()
    except PageFault as fault:
        raise damaged(file, str(fault)) from None


def free_pages(file: Path, meta: Meta) -> Numbers:
    """The numbers of the pages that are listed as free, in the file or behind its end. Raises PageFault when
    the list cannot be read.
    """
    lists = _Scan(file, meta, lambda: None).look_through(meta.free, is_list=True)
    return np.concatenate([np.zeros(0, np.int64), *lists])


def damaged(file: Path, what: str) -> DataLoss:
    """The error for a file whose pages are damaged."""
    return DataLoss(f"{file} is damaged: {what}; restore a backup", metadata={"key_family": PAGE_FAMILY})


# --- meta pages ---------------------------------------------------------------------------------------------


def read_metas(file: Path) -> list[Meta]:
    """Both meta pages. Raises PageFault when one is damaged, struct.error when the file ends before."""
    with file.open("rb") as opened:
        head = opened.read(_METAS_BYTES)
    first = _meta(head, 0, 0)
    metas = [first, _meta(head, first.page_bytes, 1)]
    for page, meta in enumerate(metas):
        _expect(
            meta.page_bytes == first.page_bytes, page, "has a different page size than the other meta page"
        )
        _expect(meta.last_page >= 1, page, "has a last page before itself")
    return metas


def _metas_in_turn(file: Path) -> list[Meta]:
    """Both meta pages, of two transactions, one after the other. Raises as `read_metas` does."""
    for _ in range(READS_MAX):
        metas = read_metas(file)
        one, two = (meta.transaction for meta in metas)
        # A new file has two of transaction 0; from then on each takes its turn.
        if one == two == 0 or (abs(one - two) == 1 and one % 2 == 0):
            return metas
    raise PageFault(0, "is not one transaction apart from the other meta page")


def _meta(head: bytes, start: int, page: int) -> Meta:
    number, _, flags, _, magic, version, _, _ = _META_FORM.unpack_from(head, start)
    _expect((number, flags, magic, version) == (page, _META, _MAGIC, _VERSION), page, "is not a meta page")
    at = start + _META_FORM.size
    free, keys = (Database(*_DATABASE_FORM.unpack_from(head, at + i * _DATABASE_FORM.size)) for i in (0, 1))
    last_page, transaction = _META_END_FORM.unpack_from(head, at + 2 * _DATABASE_FORM.size)
    size = free.pad
    _expect(size & (size - 1) == 0 and 512 <= size <= 32_768, page, f"has a page size of {size}")
    _expect((free.flags, keys.flags) == (_INTEGER_KEYS, 0), page, "has unexpected flags")
    return Meta(free, keys, last_page, transaction)


def _expect(holds: bool, page: int, what: str) -> None:
    if not holds:
        raise PageFault(page, what)


# --- trees --------------------------------------------------------------------------------------------------


class _Keys(NamedTuple):
    """Offsets of keys in the file, and their sizes in bytes; -1 for a missing one."""

    at: Numbers
    sizes: Numbers

    def joined(self, other: _Keys) -> _Keys:
        """Both sets, concatenated."""
        return _Keys(np.concatenate((self.at, other.at)), np.concatenate((self.sizes, other.sizes)))


class _Nodes(NamedTuple):
    """The nodes of some pages: the page and offset of each, and the fields of its header."""

    rows: Numbers
    at: Numbers
    low: Numbers
    flags: Numbers
    """`low` has the high half already."""
    key_bytes: Numbers


class _Scan:
    """One check of a state of a file."""

    def __init__(self, file: Path, meta: Meta, check: Callable[[], None]) -> None:
        self._meta = meta
        self._size = meta.page_bytes
        self._check = check
        # Free pages at the end may never have been written.
        in_file = file.stat().st_size // self._size
        _expect(meta.last_page < in_file + UNWRITTEN_PAGES_MAX, 0, f"claims {meta.last_page} pages")
        count = min(meta.last_page + 1, in_file)
        self._words = np.asarray(np.memmap(file, "<u2", "r", shape=(count, self._size // 2)))
        self._bytes = self._words.view(np.uint8).reshape(-1)
        self._uses = np.zeros(meta.last_page + 1, np.uint8)
        self._uses[:2] = 1

    def run(self) -> None:
        """Raises PageFault at the first fault."""
        self.look_through(self._meta.keys)
        for pages in self.look_through(self._meta.free, is_list=True):
            self._use(pages, len(self._uses))
        wrong = np.flatnonzero(self._uses != 1)
        if len(wrong):
            uses = int(self._uses[wrong[0]])
            what = "is neither in use nor free" if not uses else "is in use or free more than once"
            raise PageFault(int(wrong[0]), what)

    def _use(self, pages: Numbers, end: int | None = None) -> None:
        """Marks pages below `end` (None: those in the file) as in use or free."""
        end = len(self._words) if end is None else end
        if len(pages) and (int(pages.min()) < 2 or int(pages.max()) >= end):
            outside = pages[(pages < 2) | (pages >= end)]
            raise PageFault(int(outside[0]), "is needed but not in the file")
        np.add.at(self._uses, pages, 1)

    def look_through(self, tree: Database, *, is_list: bool = False) -> list[Numbers]:
        """Checks a tree; returns the numbers in its values if it is a free list."""
        found = [tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries]
        if not tree.has_pages:
            _expect(not any(found) and not tree.depth, 0, "claims pages for an empty tree")
            return []
        _expect(0 < tree.depth <= _DEPTH_MAX, 0, f"claims a tree of depth {tree.depth}")
        level = np.array([tree.root], np.uint64).astype(np.int64)
        # The key that separates each page from the previous one; none for the first.
        dividers = _Keys(np.array([-1]), np.array([-1]))
        branches = 0
        for _ in range(tree.depth - 1):
            branches += len(level)
            level, dividers = self._children(level, dividers)
        counted, lists = self._leaves(level, dividers, is_list=is_list)
        if [branches, len(level), *counted] != found:
            raise PageFault(
                0, f"counts {found} pages and entries where there are {[branches, len(level), *counted]}"
            )
        return lists

    def _chunks(self, pages: Numbers) -> Iterator[tuple[int, Numbers]]:
        for start in range(0, len(pages), PAGES_AT_ONCE):
            self._check()
            yield start, pages[start : start + PAGES_AT_ONCE]

    def _children(self, level: Numbers, dividers: _Keys) -> tuple[Numbers, _Keys]:
        """The child pages of branch pages, and the keys that separate them."""
        children, below = [level[:0]], _Keys(level[:0], level[:0])
        for start, pages in self._chunks(level):
            _, nodes = self._nodes(pages, _BRANCH)
            self._expect_tiled(pages, nodes, _NODE_BYTES + nodes.key_bytes)
            children.append(nodes.low | nodes.flags << 32)
            keys = self._keys_of(pages, nodes)
            # The first key of a branch page is ignored: its first child has the page's own separator.
            first = np.flatnonzero(np.append(True, nodes.rows[1:] != nodes.rows[:-1]))
            keys.at[first] = dividers.at[start : start + len(pages)]
            keys.sizes[first] = dividers.sizes[start : start + len(pages)]
            below = below.joined(keys)
        return np.concatenate(children), below

    def _keys_of(self, pages: Numbers, nodes: _Nodes) -> _Keys:
        return _Keys(pages[nodes.rows] * self._size + nodes.at + _NODE_BYTES, nodes.key_bytes.copy())

    def _expect_order(self, pages: Numbers, nodes: _Nodes, dividers: _Keys, last: _Keys) -> _Keys:
        """Checks that keys ascend from node to node, and that those of a page are not below its separator
        from the previous page, of which `last` is the last key. Returns the last key of these pages.
        """
        keys = self._keys_of(pages, nodes)
        first = np.flatnonzero(np.append(True, nodes.rows[1:] != nodes.rows[:-1]))
        ends = np.append(first[1:] - 1, len(nodes.rows) - 1)
        before = last.joined(_Keys(keys.at[ends[:-1]], keys.sizes[ends[:-1]]))
        inner = np.delete(np.arange(len(nodes.rows)), first)
        one = _Keys(keys.at[inner - 1], keys.sizes[inner - 1]).joined(before).joined(dividers)
        two = _Keys(keys.at[inner], keys.sizes[inner]).joined(dividers)
        two = two.joined(_Keys(keys.at[first], keys.sizes[first]))
        rows = np.concatenate((nodes.rows[inner], nodes.rows[first], nodes.rows[first]))
        may_be_equal = np.arange(len(rows)) >= len(rows) - len(first)
        there = (one.at >= 0) & (two.at >= 0)
        holds = self._is_below(
            _Keys(one.at[there], one.sizes[there]),
            _Keys(two.at[there], two.sizes[there]),
            may_be_equal[there],
        )
        if not holds.all():
            raise PageFault(int(pages[rows[there][np.argmin(holds)]]), "has keys out of order")
        return _Keys(keys.at[-1:], keys.sizes[-1:])

    def _is_below(self, one: _Keys, two: _Keys, may_be_equal: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """For each pair of keys whether the first comes before the second, eight bytes at a time."""
        holds = np.zeros(len(one.at), np.bool_)
        left, offset = np.arange(len(one.at)), 0
        while len(left):
            words = [self._word_of(keys.at[left], keys.sizes[left], offset) for keys in (one, two)]
            holds[left[words[0] < words[1]]] = True
            left = left[words[0] == words[1]]
            offset += _NUMBER_BYTES
            ended = np.maximum(one.sizes[left], two.sizes[left]) <= offset
            at_end = left[ended]
            holds[at_end] = (one.sizes[at_end] < two.sizes[at_end]) | (
                may_be_equal[at_end] & (one.sizes[at_end] == two.sizes[at_end])
            )
            left = left[~ended]
        return holds

    def _word_of(self, at: Numbers, sizes: Numbers, offset: int) -> npt.NDArray[np.uint64]:
        """Eight bytes of keys as numbers that sort alike, padded with zeros beyond the end of a key."""
        places = np.arange(offset, offset + _NUMBER_BYTES)
        within = places < sizes[:, None]
        taken = self._bytes[np.where(within, at[:, None] + places, 0)] * within
        return np.ascontiguousarray(taken, np.uint8).view(">u8")[:, 0].astype(np.uint64)

    def _leaves(self, level: Numbers, dividers: _Keys, *, is_list: bool) -> tuple[list[int], list[Numbers]]:
        overflow_pages = entries = 0
        lists: list[Numbers] = []
        last = _Keys(np.array([-1]), np.array([-1]))
        freed_by = 0
        for start, pages in self._chunks(level):
            words, nodes = self._nodes(pages, _LEAF)
            is_big = nodes.flags == _BIG_DATA
            self._expect_all(pages, nodes, is_big | (nodes.flags == 0), "has a node of the wrong kind")
            sizes = np.where(is_big, _NUMBER_BYTES, nodes.low)
            self._expect_tiled(pages, nodes, _NODE_BYTES + nodes.key_bytes + sizes)
            within = (nodes.key_bytes > 0) & (nodes.key_bytes <= _KEY_BYTES_MAX)
            self._expect_all(pages, nodes, within, "has a key of invalid size")
            end = start + len(pages)
            here = _Keys(dividers.at[start:end], dividers.sizes[start:end])
            if is_list:
                freed_by = self._expect_transactions(pages, nodes, here, freed_by)
            else:
                last = self._expect_order(pages, nodes, here, last)
            entries += len(nodes.rows)
            data = nodes.at + _NODE_BYTES + nodes.key_bytes
            first = _numbers_at(words.view(np.uint8), nodes.rows[is_big], data[is_big])
            needed = (_HEADER_BYTES - 1 + nodes.low[is_big]) // self._size + 1
            overflow_pages += self._use_overflow(pages[nodes.rows[is_big]], first, needed)
            if is_list:
                lists += self._free_lists(pages, words, nodes, first)
        return [overflow_pages, entries], lists

    def _nodes(self, pages: Numbers, kind: int) -> tuple[npt.NDArray[np.uint16], _Nodes]:
        """The u16 words of some pages, and their nodes."""
        self._use(pages)
        words = self._words[pages]
        own = np.ascontiguousarray(words[:, :4]).view("<u8")[:, 0] == pages
        flags, lower, upper = (words[:, at].astype(np.int64) for at in (5, 6, 7))
        counts = (lower - _HEADER_BYTES) // 2
        right = (
            own & (flags == kind) & (lower % 2 == 0) & (counts > 0) & (lower <= upper) & (upper < self._size)
        )
        if not right.all():
            raise PageFault(int(pages[np.argmin(right)]), "has an inconsistent header")
        rows = np.repeat(np.arange(len(pages)), counts)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = words[rows, _HEADER_BYTES // 2 + places].astype(np.int64)
        inside = (at % 2 == 0) & (at >= upper[rows]) & (at <= self._size - _NODE_BYTES)
        if not inside.all():
            raise PageFault(int(pages[rows[np.argmin(inside)]]), "has a node out of bounds")
        low, high, node_flags, key_bytes = (words[rows, at // 2 + i].astype(np.int64) for i in range(4))
        return words, _Nodes(rows, at, low | high << 16, node_flags, key_bytes)

    def _expect_tiled(self, pages: Numbers, nodes: _Nodes, sizes: Numbers) -> None:
        """Checks that nodes follow each other without a gap up to the end of their page."""
        starts = nodes.rows * self._size + nodes.at
        order = np.argsort(starts)
        starts = starts[order]
        ends = starts + (sizes[order] + 1) // 2 * 2
        rows = nodes.rows[order]
        is_last = np.append(rows[1:] != rows[:-1], True)
        follows = np.where(is_last, (rows + 1) * self._size, np.append(starts[1:], 0))
        is_first = np.append(True, is_last[:-1])
        upper = self._words[pages[rows[is_first]], 7]
        begins = starts[is_first] - rows[is_first] * self._size == upper
        if not begins.all():
            raise PageFault(int(pages[rows[is_first][np.argmin(begins)]]), "has a gap before its nodes")
        if not (ends == follows).all():
            raise PageFault(
                int(pages[rows[np.argmin(ends == follows)]]), "has nodes that overlap or leave a gap"
            )

    def _expect_all(self, pages: Numbers, nodes: _Nodes, holds: npt.NDArray[np.bool_], what: str) -> None:
        if not holds.all():
            raise PageFault(int(pages[nodes.rows[np.argmin(holds)]]), what)

    def _use_overflow(self, leaves: Numbers, first: Numbers, needed: Numbers) -> int:
        """Marks the overflow pages of values of some leaves as in use, and returns how many they are. A value
        has the pages that it needs or more: LMDB leaves it where it is when the same transaction makes it
        shorter.
        """
        if not len(first):
            return 0
        right = (first >= 2) & (first + needed <= len(self._words))
        if not right.all():
            raise PageFault(int(leaves[np.argmin(right)]), "refers to pages outside of the file")
        heads = np.ascontiguousarray(self._words[first, : _HEADER_BYTES // 2])
        own = heads.view("<u8")[:, 0] == first
        counts = heads.view("<u4")[:, 3].astype(np.int64)
        right = own & (heads[:, 5] == _OVERFLOW) & (counts >= needed) & (first + counts <= len(self._words))
        if not right.all():
            raise PageFault(int(first[np.argmin(right)]), "has an inconsistent header")
        spread = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        self._use(spread)
        return int(counts.sum())

    def _expect_transactions(self, pages: Numbers, nodes: _Nodes, dividers: _Keys, last: int) -> int:
        """Checks that the keys of free lists are transactions up to that of this state, ascending after
        `last`, and not below the separators of their pages. Returns the last one. LMDB ends the process when
        it meets another.
        """
        self._expect_all(pages, nodes, nodes.key_bytes == _NUMBER_BYTES, "has a key of invalid size")
        keys = self._transactions_at(self._keys_of(pages, nodes).at)
        ascends = np.diff(keys, prepend=last) > 0
        self._expect_all(
            pages, nodes, ascends & (keys <= self._meta.transaction), "has transactions out of order"
        )
        first = np.flatnonzero(np.append(True, nodes.rows[1:] != nodes.rows[:-1]))
        there = dividers.at >= 0
        separators = self._transactions_at(dividers.at[there])
        holds = (dividers.sizes[there] == _NUMBER_BYTES) & (separators <= keys[first[there]])
        if not holds.all():
            raise PageFault(int(pages[there][np.argmin(holds)]), "has transactions out of order")
        return int(keys[-1])

    def _transactions_at(self, at: Numbers) -> Numbers:
        """The numbers at offsets in the file."""
        taken = self._bytes[at[:, None] + np.arange(_NUMBER_BYTES)]
        return np.ascontiguousarray(taken).view("<u8")[:, 0].astype(np.int64)

    def _free_lists(
        self, pages: Numbers, words: npt.NDArray[np.uint16], nodes: _Nodes, first: Numbers
    ) -> Iterator[Numbers]:
        """The lists in the nodes of leaf pages: their length, then the page numbers, descending."""
        big = iter(first.tolist())
        content = words.view(np.uint8)
        for row, at, size, flags, key_bytes in zip(
            *(field.tolist() for field in (nodes.rows, nodes.at, nodes.low, nodes.flags, nodes.key_bytes)),
            strict=True,
        ):
            if flags == _BIG_DATA:
                start = next(big)
                raw = self._words[start : start + size // self._size + 2].view(np.uint8).reshape(-1)
                data = raw[_HEADER_BYTES : _HEADER_BYTES + size]
            else:
                start = at + _NODE_BYTES + key_bytes
                data = content[row, start : start + size]
            page = int(pages[row])
            _expect(
                size >= _NUMBER_BYTES and size % _NUMBER_BYTES == 0,
                page,
                "has a free list of the wrong size",
            )
            numbers = np.frombuffer(data.tobytes(), "<u8").astype(np.int64)
            listed = numbers[1 : 1 + int(numbers[0])]
            _expect(0 <= numbers[0] < len(numbers), page, "has a free list that is too short")
            _expect(bool((listed[1:] < listed[:-1]).all()), page, "has a free list out of order")
            yield listed


def _numbers_at(content: npt.NDArray[np.uint8], rows: Numbers, at: Numbers) -> Numbers:
    """The u64 numbers at offsets within pages."""
    taken = content[rows[:, None], at[:, None] + np.arange(_NUMBER_BYTES)]
    return np.ascontiguousarray(taken).view("<u8")[:, 0].astype(np.int64)
