"""The pages of an LMDB file, which have no checksums: whether they are what LMDB could have written.

LMDB trusts its file. A page whose header, pointers or sizes were changed makes it answer from the wrong
place, write over what is in use, or end the process. So the tree is looked through before anybody asks it:
its pages and their nodes fit each other, keys are in order, and each page of the file is in use exactly once
or free. Whether keys and values are the right ones is for `key_ranges` and checksums.

The layout, of LMDB 0.9, in bytes; all numbers are little-endian:

==============  ============================================================================================
page            number u64, pad u16, flags u16, lower u16, upper u16 (or, of an overflow page, pages u32)
branch, leaf    u16 offsets of the nodes from 16 to `lower`; nodes without gaps from `upper` to the end
node            low u16, high u16, flags u16, key size u16, key, data
leaf node       size of the data is low + high << 16; with BIG_DATA the data is the u64 number of the first of
                the overflow pages that have it
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
"""So many pages are copied and looked at together."""

UNWRITTEN_PAGES_MAX = 1 << 24
"""More pages than one transaction takes and frees again, which are then free and not in the file."""

PAGE_FAMILY = "PAGES"
"""What an error names instead of a family of keys."""

_HEADER_BYTES, _NODE_BYTES, _NUMBER_BYTES = 16, 8, 8
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_BIG_DATA = 0x01
_INTEGER_KEYS = 0x08
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_KEY_BYTES_MAX = 511
_NO_ROOT = (1 << 64) - 1
_DEPTH_MAX = 32

_META_FORM = struct.Struct("<QHHIIIQQ")
_DATABASE_FORM = struct.Struct("<IHHQQQQQ")
_META_END_FORM = struct.Struct("<QQ")

Numbers = npt.NDArray[np.int64]


class _Fault(Exception):
    """What is wrong, and with which page."""

    def __init__(self, page: int, what: str) -> None:
        super().__init__(f"page {page} {what}")


class Database(NamedTuple):
    """What a meta page says of one of the two trees."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Meta(NamedTuple):
    """A meta page: the state after one transaction."""

    free: Database
    keys: Database
    last_page: int
    transaction: int

    @property
    def page_bytes(self) -> int:
        """The size of each page."""
        return self.free.pad

    @property
    def tree_pages(self) -> int:
        """How many branch and leaf pages there are."""
        return sum(tree.branch_pages + tree.leaf_pages for tree in (self.free, self.keys))


def read_meta(file: Path, transaction: int | None = None) -> Meta | None:
    """The newest state of a file that nobody is writing to, or (with a transaction's number) the state after
    that one, None when it is there no more. None as well for a file that is missing or empty. Raises DataLoss
    when the meta pages are damaged.
    """
    if not file.is_file() or not file.stat().st_size:
        return None
    with file.open("rb") as opened:
        head = opened.read(1 << 17)
    try:
        metas = _metas(head, is_still=transaction is None)
    except (_Fault, struct.error) as fault:
        raise damaged(file, str(fault)) from None
    if transaction is None:
        return max(metas, key=lambda meta: meta.transaction)
    return next((meta for meta in metas if meta.transaction == transaction), None)


def check_pages(file: Path, meta: Meta, check: Callable[[], None] = lambda: None) -> None:
    """Raises DataLoss unless every page of the state is sound. Nobody may write to its pages meanwhile: hold
    a read transaction of it, or own the file. `check` is called now and then and may raise.
    """
    try:
        _Scan(file, meta, check).run()
    except _Fault as fault:
        raise damaged(file, str(fault)) from None


def damaged(file: Path, what: str) -> DataLoss:
    """The error for a file whose pages are damaged."""
    return DataLoss(f"{file} is damaged: {what}; restore a backup", metadata={"key_family": PAGE_FAMILY})


# --- meta pages ---------------------------------------------------------------------------------------------


def _metas(head: bytes, *, is_still: bool) -> list[Meta]:
    first = _meta(head, 0, 0)
    metas = [first, _meta(head, first.page_bytes, 1)]
    for page, meta in enumerate(metas):
        _expect(meta.page_bytes == first.page_bytes, page, "has another page size than its twin")
        _expect(meta.last_page >= 1, page, "has no room for itself")
    one, two = (meta.transaction for meta in metas)
    # A new file has two of transaction 0; from then on each takes its turn.
    in_turn = abs(one - two) == 1 and one % 2 == 0
    _expect(
        not is_still or in_turn or one == two == 0, 0, "is not of the transaction before or after its twin's"
    )
    return metas


def _meta(head: bytes, start: int, page: int) -> Meta:
    number, _, flags, _, magic, version, _, _ = _META_FORM.unpack_from(head, start)
    _expect((number, flags, magic, version) == (page, _META, _MAGIC, _VERSION), page, "is no meta page")
    at = start + _META_FORM.size
    free, keys = (Database(*_DATABASE_FORM.unpack_from(head, at + i * _DATABASE_FORM.size)) for i in (0, 1))
    last_page, transaction = _META_END_FORM.unpack_from(head, at + 2 * _DATABASE_FORM.size)
    size = free.pad
    _expect(size & (size - 1) == 0 and 512 <= size <= 32_768, page, f"has a page size of {size}")
    _expect((free.flags, keys.flags) == (_INTEGER_KEYS, 0), page, "has flags that are not the store's")
    return Meta(free, keys, last_page, transaction)


def _expect(holds: bool, page: int, what: str) -> None:
    if not holds:
        raise _Fault(page, what)


# --- trees --------------------------------------------------------------------------------------------------


class _Keys(NamedTuple):
    """Where keys are in the file, and how many bytes each has; -1 for one that is not there."""

    at: Numbers
    sizes: Numbers

    def joined(self, other: _Keys) -> _Keys:
        """These and others."""
        return _Keys(np.concatenate((self.at, other.at)), np.concatenate((self.sizes, other.sizes)))


class _Nodes(NamedTuple):
    """The nodes of some pages: which of the pages each is on, where, and the fields of its header."""

    rows: Numbers
    at: Numbers
    low: Numbers
    flags: Numbers
    """`low` has the high half already."""
    key_bytes: Numbers


class _Scan:
    """One look through a state of a file."""

    def __init__(self, file: Path, meta: Meta, check: Callable[[], None]) -> None:
        self._meta = meta
        self._size = meta.page_bytes
        self._check = check
        # Free pages at the end may never have been written.
        in_file = file.stat().st_size // self._size
        _expect(meta.last_page < in_file + UNWRITTEN_PAGES_MAX, 0, f"tells of {meta.last_page} pages")
        count = min(meta.last_page + 1, in_file)
        self._words = np.asarray(np.memmap(file, "<u2", "r", shape=(count, self._size // 2)))
        self._bytes = self._words.view(np.uint8).reshape(-1)
        self._uses = np.zeros(meta.last_page + 1, np.uint8)
        self._uses[:2] = 1

    def run(self) -> None:
        """Raises _Fault at the first thing that is wrong."""
        self._look_through(self._meta.keys)
        for pages in self._look_through(self._meta.free, is_list=True):
            self._use(pages, len(self._uses))
        wrong = np.flatnonzero(self._uses != 1)
        if len(wrong):
            uses = int(self._uses[wrong[0]])
            what = "is neither in use nor free" if not uses else "is in use or free more than once"
            raise _Fault(int(wrong[0]), what)

    def _use(self, pages: Numbers, end: int | None = None) -> None:
        """Notes that pages below `end` (None: those that are in the file) are in use or free."""
        end = len(self._words) if end is None else end
        if len(pages) and (int(pages.min()) < 2 or int(pages.max()) >= end):
            outside = pages[(pages < 2) | (pages >= end)]
            raise _Fault(int(outside[0]), "is needed and not in the file")
        np.add.at(self._uses, pages, 1)

    def _look_through(self, tree: Database, *, is_list: bool = False) -> list[Numbers]:
        """Checks a tree, and answers the numbers in its values if it is a list of free pages."""
        found = [tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries]
        if tree.root == _NO_ROOT:
            _expect(not any(found) and not tree.depth, 0, "tells of pages of a tree that has none")
            return []
        _expect(0 < tree.depth <= _DEPTH_MAX, 0, f"tells of a tree of depth {tree.depth}")
        level = np.array([tree.root], np.uint64).astype(np.int64)
        # What divides each page from the one before it; nothing does the first.
        dividers = _Keys(np.array([-1]), np.array([-1]))
        branches = 0
        for _ in range(tree.depth - 1):
            branches += len(level)
            level, dividers = self._children(level, dividers)
        counted, lists = self._leaves(level, dividers, is_list=is_list)
        if [branches, len(level), *counted] != found:
            raise _Fault(
                0, f"counts {found} pages and entries where there are {[branches, len(level), *counted]}"
            )
        return lists

    def _chunks(self, pages: Numbers) -> Iterator[tuple[int, Numbers]]:
        for start in range(0, len(pages), PAGES_AT_ONCE):
            self._check()
            yield start, pages[start : start + PAGES_AT_ONCE]

    def _children(self, level: Numbers, dividers: _Keys) -> tuple[Numbers, _Keys]:
        """The pages below branch pages, and what divides them."""
        children, below = [level[:0]], _Keys(level[:0], level[:0])
        for start, pages in self._chunks(level):
            _, nodes = self._nodes(pages, _BRANCH)
            self._expect_tiled(pages, nodes, _NODE_BYTES + nodes.key_bytes)
            children.append(nodes.low | nodes.flags << 32)
            keys = self._keys_of(pages, nodes)
            # The first key of a branch page is not looked at: its first child is divided as it is itself.
            first = np.flatnonzero(np.append(True, nodes.rows[1:] != nodes.rows[:-1]))
            keys.at[first] = dividers.at[start : start + len(pages)]
            keys.sizes[first] = dividers.sizes[start : start + len(pages)]
            below = below.joined(keys)
        return np.concatenate(children), below

    def _keys_of(self, pages: Numbers, nodes: _Nodes) -> _Keys:
        return _Keys(pages[nodes.rows] * self._size + nodes.at + _NODE_BYTES, nodes.key_bytes.copy())

    def _expect_order(self, pages: Numbers, nodes: _Nodes, dividers: _Keys, last: _Keys) -> _Keys:
        """Keys rise from node to node, and those of a page are not below what divides it from the page
        before, of which `last` is the last key. Answers the last key of these pages.
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
            raise _Fault(int(pages[rows[there][np.argmin(holds)]]), "has keys out of order")
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
        """Eight bytes of keys as numbers in their order, zeros behind the end of a key."""
        places = np.arange(offset, offset + _NUMBER_BYTES)
        within = places < sizes[:, None]
        taken = self._bytes[np.where(within, at[:, None] + places, 0)] * within
        return np.ascontiguousarray(taken, np.uint8).view(">u8")[:, 0].astype(np.uint64)

    def _leaves(self, level: Numbers, dividers: _Keys, *, is_list: bool) -> tuple[list[int], list[Numbers]]:
        overflow_pages = entries = 0
        lists: list[Numbers] = []
        last = _Keys(np.array([-1]), np.array([-1]))
        for start, pages in self._chunks(level):
            words, nodes = self._nodes(pages, _LEAF)
            is_big = nodes.flags == _BIG_DATA
            self._expect_all(pages, nodes, is_big | (nodes.flags == 0), "has a node of another kind")
            sizes = np.where(is_big, _NUMBER_BYTES, nodes.low)
            self._expect_tiled(pages, nodes, _NODE_BYTES + nodes.key_bytes + sizes)
            within = (nodes.key_bytes > 0) & (nodes.key_bytes <= _KEY_BYTES_MAX)
            self._expect_all(pages, nodes, within, "has a key of a size that no key has")
            if not is_list:
                end = start + len(pages)
                here = _Keys(dividers.at[start:end], dividers.sizes[start:end])
                last = self._expect_order(pages, nodes, here, last)
            entries += len(nodes.rows)
            data = nodes.at + _NODE_BYTES + nodes.key_bytes
            first = _numbers_at(words.view(np.uint8), nodes.rows[is_big], data[is_big])
            counts = (_HEADER_BYTES - 1 + nodes.low[is_big]) // self._size + 1
            overflow_pages += int(counts.sum())
            self._check_overflow(pages[nodes.rows[is_big]], first, counts)
            if is_list:
                lists += self._free_lists(pages, words, nodes, first)
        return [overflow_pages, entries], lists

    def _nodes(self, pages: Numbers, kind: int) -> tuple[npt.NDArray[np.uint16], _Nodes]:
        """The words of some pages and their nodes."""
        self._use(pages)
        words = self._words[pages]
        own = np.ascontiguousarray(words[:, :4]).view("<u8")[:, 0] == pages
        flags, lower, upper = (words[:, at].astype(np.int64) for at in (5, 6, 7))
        counts = (lower - _HEADER_BYTES) // 2
        right = (
            own & (flags == kind) & (lower % 2 == 0) & (counts > 0) & (lower <= upper) & (upper < self._size)
        )
        if not right.all():
            raise _Fault(int(pages[np.argmin(right)]), "has a header that makes no sense")
        rows = np.repeat(np.arange(len(pages)), counts)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = words[rows, _HEADER_BYTES // 2 + places].astype(np.int64)
        inside = (at % 2 == 0) & (at >= upper[rows]) & (at <= self._size - _NODE_BYTES)
        if not inside.all():
            raise _Fault(int(pages[rows[np.argmin(inside)]]), "has a node outside of its room")
        low, high, node_flags, key_bytes = (words[rows, at // 2 + i].astype(np.int64) for i in range(4))
        return words, _Nodes(rows, at, low | high << 16, node_flags, key_bytes)

    def _expect_tiled(self, pages: Numbers, nodes: _Nodes, sizes: Numbers) -> None:
        """Nodes follow each other without a gap up to the end of their page."""
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
            raise _Fault(int(pages[rows[is_first][np.argmin(begins)]]), "has a gap before its nodes")
        if not (ends == follows).all():
            raise _Fault(int(pages[rows[np.argmin(ends == follows)]]), "has nodes that do not fit together")

    def _expect_all(self, pages: Numbers, nodes: _Nodes, holds: npt.NDArray[np.bool_], what: str) -> None:
        if not holds.all():
            raise _Fault(int(pages[nodes.rows[np.argmin(holds)]]), what)

    def _check_overflow(self, leaves: Numbers, first: Numbers, counts: Numbers) -> None:
        """The pages of values that have pages of their own."""
        if not len(first):
            return
        right = (first >= 2) & (first + counts <= len(self._words))
        if not right.all():
            raise _Fault(int(leaves[np.argmin(right)]), "leads to pages that are none of the file")
        heads = np.ascontiguousarray(self._words[first, : _HEADER_BYTES // 2])
        own = heads.view("<u8")[:, 0] == first
        right = own & (heads[:, 5] == _OVERFLOW) & (heads.view("<u4")[:, 3] == counts)
        if not right.all():
            raise _Fault(int(first[np.argmin(right)]), "has a header that makes no sense")
        spread = np.repeat(first - (np.cumsum(counts) - counts), counts) + np.arange(int(counts.sum()))
        self._use(spread)

    def _free_lists(
        self, pages: Numbers, words: npt.NDArray[np.uint16], nodes: _Nodes, first: Numbers
    ) -> Iterator[Numbers]:
        """The lists in the nodes of leaf pages: how many there are, then the numbers, descending."""
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
                "has a list of free pages of a wrong size",
            )
            numbers = np.frombuffer(data.tobytes(), "<u8").astype(np.int64)
            listed = numbers[1 : 1 + int(numbers[0])]
            _expect(0 <= numbers[0] < len(numbers), page, "has a list of free pages that is too short")
            _expect(bool((listed[1:] < listed[:-1]).all()), page, "has a list of free pages out of order")
            yield listed


def _numbers_at(content: npt.NDArray[np.uint8], rows: Numbers, at: Numbers) -> Numbers:
    """The u64 numbers at places of pages."""
    taken = content[rows[:, None], at[:, None] + np.arange(_NUMBER_BYTES)]
    return np.ascontiguousarray(taken).view("<u8")[:, 0].astype(np.int64)
